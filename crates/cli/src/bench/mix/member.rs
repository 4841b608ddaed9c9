//! Those whose passwords are hashed: each connection registers people, logs in as one of them, and changes
//! the password of the one it is.
//!
//! People of one connection are no other's, so that who logs in knows the password. Invariant: a refusal
//! is counted, and nobody's password is taken for changed before the server says so.

use papertrader_protocol::returns::Return;
use papertrader_protocol::{Frame, Instruction, SessionId};

use super::load::{Actor, Heard};
use super::operation::{Operation, PASSWORDS, choose};
use super::talk::{Answer, Talk};
use crate::bench::{BenchError, wrong};

/// Somebody who is registered.
struct Person {
    name: String,
    /// How often the password was changed.
    changes: u64,
}

/// A connection of people.
pub(super) struct Member {
    number: usize,
    talk: Talk,
    people: Vec<Person>,
    /// Who is logged in, and with which session.
    current: Option<(usize, SessionId)>,
    /// Who is logging in.
    coming: usize,
    operation: Operation,
    refused: Option<String>,
    random: u64,
}

impl Member {
    pub(super) fn new(number: usize, seed: u64) -> Member {
        Member {
            number,
            talk: Talk::new(),
            people: Vec::new(),
            current: None,
            coming: 0,
            operation: Operation::Enter,
            refused: None,
            random: (seed << 32 | number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    /// The names of all whom it has registered.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.people.iter().map(|person| person.name.as_str())
    }

    /// What a client makes of a password: any 64 digits.
    fn pass(&self, who: usize, changes: u64) -> String {
        format!("{:016x}{who:016x}{changes:032x}", self.number)
    }

    fn new_name(&self) -> String {
        format!("member-{}-{}", self.number, self.people.len() + 1)
    }

    /// SplitMix64.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn succeeded(&mut self, asked: Instruction, frame: &Frame<'_>) -> Result<(), BenchError> {
        match asked {
            Instruction::Register => {
                self.people.push(Person { name: self.new_name(), changes: 0 });
            }
            Instruction::Login => {
                // The list of workers follows by itself.
                if let Some(Return::Session(grant)) = Return::parse(frame).map_err(wrong)? {
                    let name = self.people.get(self.coming).map(|person| person.name.as_str());
                    if name != Some(&grant.name) {
                        return Err(wrong(format!("{} was logged in for {name:?}", grant.name)));
                    }
                    self.current = Some((self.coming, grant.session));
                }
            }
            Instruction::ChangePassword => {
                let current = self.current.map(|(who, _)| who);
                if let Some(person) = current.and_then(|who| self.people.get_mut(who)) {
                    person.changes += 1;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Actor for Member {
    fn begin(&mut self, out: &mut Vec<u8>) -> Result<Operation, BenchError> {
        let random = self.next_random();
        self.operation = match (self.people.is_empty(), self.current) {
            (true, _) => Operation::Register,
            (false, None) => Operation::Login,
            (false, Some(_)) => choose(PASSWORDS, random),
        };
        match (self.operation, self.current) {
            (Operation::Update, Some((who, session))) => {
                let changes = self.people.get(who).map_or(0, |person| person.changes);
                let data = format!("{} {}", self.pass(who, changes), self.pass(who, changes + 1));
                self.talk.ask(session, Instruction::ChangePassword, 2, data.as_bytes(), out);
            }
            (Operation::Login, _) => {
                self.coming = (random >> 32) as usize % self.people.len().max(1);
                let person = self.people.get(self.coming).ok_or_else(|| wrong("nobody"))?;
                let pass = self.pass(self.coming, person.changes);
                let data = format!("{} {pass} false", person.name);
                self.talk.ask(SessionId::NONE, Instruction::Login, 3, data.as_bytes(), out);
            }
            _ => {
                let (name, pass) = (self.new_name(), self.pass(self.people.len(), 0));
                let data = format!("{name} {name}@example.org {pass}");
                self.talk.ask(SessionId::NONE, Instruction::Register, 3, data.as_bytes(), out);
            }
        }
        Ok(self.operation)
    }

    fn hear(&mut self, frame: &Frame<'_>, _: &mut Vec<u8>) -> Result<Heard, BenchError> {
        match self.talk.hear(frame)? {
            Answer::Other => return Err(wrong("an answer that nobody waits for")),
            Answer::Right(asked) => self.succeeded(asked, frame)?,
            Answer::Refused(_, code) => {
                self.refused.get_or_insert(code);
            }
        }
        if !self.talk.is_idle() {
            return Ok(Heard::More);
        }
        Ok(self.refused.take().map_or(Heard::Done, Heard::Refused))
    }
}
