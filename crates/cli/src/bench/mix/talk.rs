//! The words of one connection of the mix: requests with their numbers, each in the state of the connection
//! that it belongs to, and the answers that they must have.
//!
//! A switch of state goes with the request that needs it, in the same write, as the SDK does it.
//! Invariant: an answer that nothing waits for, or another one than asked for, is an error.

use papertrader_protocol::instruction::{MessageType, State};
use papertrader_protocol::{Frame, Header, Instruction, SessionId};

use crate::bench::{BenchError, wrong};

/// An answer that is still to come.
#[derive(Debug, Clone, Copy)]
struct Awaited {
    request: u64,
    asked: Instruction,
    wanted: Instruction,
}

/// What an answer is.
pub(super) enum Answer {
    /// The one to this.
    Right(Instruction),
    /// The one to this is that it was refused, with this word.
    Refused(Instruction, String),
    /// One that a request has besides its first.
    Other,
}

pub(super) struct Talk {
    last: u64,
    state: State,
    awaited: Vec<Awaited>,
}

impl Talk {
    pub(super) fn new() -> Talk {
        Talk { last: 0, state: State::Command, awaited: Vec::new() }
    }

    /// Whether every answer has come.
    pub(super) fn is_idle(&self) -> bool {
        self.awaited.is_empty()
    }

    /// Appends a request, before it a switch of state if it needs one. Returns its number.
    pub(super) fn ask(
        &mut self,
        session: SessionId,
        asked: Instruction,
        arguments: u16,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> u64 {
        let state = match asked.message_type() {
            MessageType::DataTransfer => State::DataTransfer,
            _ => State::Command,
        };
        if state != self.state {
            self.state = state;
            self.put(session, Instruction::SwitchState, 1, state.name().as_bytes(), out);
        }
        self.put(session, asked, arguments, data, out)
    }

    fn put(
        &mut self,
        session: SessionId,
        asked: Instruction,
        arguments: u16,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> u64 {
        self.last += 1;
        let request = self.last;
        let mut header = Header::new(asked.message_type(), asked as u16, request);
        header.argument_count = arguments;
        header.session = session;
        header.encode(data, out);
        for wanted in wanted(asked) {
            self.awaited.push(Awaited { request, asked, wanted: *wanted });
        }
        request
    }

    /// Takes an answer.
    pub(super) fn hear(&mut self, frame: &Frame<'_>) -> Result<Answer, BenchError> {
        let request = frame.header.request;
        let Some(at) = self.awaited.iter().position(|one| one.request == request) else {
            return Ok(Answer::Other);
        };
        let Awaited { asked, wanted, .. } = self.awaited.remove(at);
        let heard = Instruction::from_number(frame.header.instruction);
        if heard == Some(wanted) {
            return Ok(Answer::Right(asked));
        }
        let data = String::from_utf8_lossy(frame.data);
        if heard != Some(asked.failure()) {
            let heard = heard.map_or("?", Instruction::name);
            return Err(wrong(format!("{heard} as the answer to {}: {data}", asked.name())));
        }
        self.awaited.retain(|one| one.request != request);
        let code = data.split(' ').next().unwrap_or_default().to_owned();
        Ok(Answer::Refused(asked, code))
    }
}

/// What is waited for after a request, in this order.
fn wanted(asked: Instruction) -> &'static [Instruction] {
    use Instruction as I;
    match asked {
        I::SwitchState => &[I::StateSwitchSuccess],
        I::PurchaseAsset | I::SellAsset => &[I::OrderQueued],
        I::Logout => &[I::LogoutSuccess],
        I::Login | I::LoginSession => &[I::SessionId, I::WorkerList],
        I::Register => &[I::RegisterSuccess],
        I::ChangePassword => &[I::PasswordChanged],
        _ => &[I::Data],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId::from_bytes([7; 16]);

    fn frames(mut bytes: &[u8]) -> Vec<(Instruction, u64)> {
        let mut all = Vec::new();
        while let Some((frame, used)) = Frame::decode(bytes).unwrap() {
            let instruction = Instruction::from_number(frame.header.instruction).unwrap();
            all.push((instruction, frame.header.request));
            bytes = &bytes[used..];
        }
        all
    }

    fn hear(talk: &mut Talk, heard: Instruction, request: u64, words: &str) -> Option<String> {
        let mut bytes = Vec::new();
        let header = Header::new(heard.message_type(), heard as u16, request);
        header.encode(words.as_bytes(), &mut bytes);
        let (frame, _) = Frame::decode(&bytes).unwrap().unwrap();
        match talk.hear(&frame) {
            Ok(Answer::Right(_)) => Some("right".to_owned()),
            Ok(Answer::Refused(_, code)) => Some(code),
            Ok(Answer::Other) => Some("other".to_owned()),
            Err(_) => None,
        }
    }

    #[test]
    fn a_request_goes_with_the_switch_that_it_needs_and_no_other() {
        use Instruction as I;
        let (mut talk, mut out) = (Talk::new(), Vec::new());
        assert_eq!(talk.ask(SESSION, I::GetAssetValueCurrent, 1, b"S1", &mut out), 2);
        talk.ask(SESSION, I::GetUserInfo, 1, b"a", &mut out);
        talk.ask(SESSION, I::Logout, 0, b"", &mut out);
        let sent = [
            (I::SwitchState, 1),
            (I::GetAssetValueCurrent, 2),
            (I::GetUserInfo, 3),
            (I::SwitchState, 4),
            (I::Logout, 5),
        ];
        assert_eq!(frames(&out), sent);
        let right = Some("right".to_owned());
        for (request, heard) in
            [(1, I::StateSwitchSuccess), (3, I::Data), (2, I::Data), (4, I::StateSwitchSuccess)]
        {
            assert_eq!(hear(&mut talk, heard, request, "x"), right);
        }
        assert!(!talk.is_idle());
        assert_eq!(hear(&mut talk, I::LogoutSuccess, 5, ""), right);
        assert!(talk.is_idle());
    }

    #[test]
    fn a_refusal_is_told_by_its_word_and_another_answer_is_an_error() {
        use Instruction as I;
        let (mut talk, mut out) = (Talk::new(), Vec::new());
        talk.ask(SESSION, I::LoginSession, 0, b"", &mut out);
        let refused = hear(&mut talk, I::LoginFail, 1, "sessionUnknown no such session");
        assert_eq!((refused.as_deref(), talk.is_idle()), (Some("sessionUnknown"), true));
        assert_eq!(hear(&mut talk, I::PurchaseSuccess, 1, "").as_deref(), Some("other"));
        talk.ask(SESSION, I::PurchaseAsset, 3, b"S1 1 id", &mut out);
        assert_eq!(hear(&mut talk, I::Data, 2, ""), None);
    }
}
