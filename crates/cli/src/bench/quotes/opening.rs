//! How a connection of the load begins, and what a session that has ended gets.

use std::io::{Read, Write};

use papertrader_protocol::instruction::State;
use papertrader_protocol::{Frame, Header, Instruction, Reason, SessionId};

use crate::bench::stream::{Opened, Worker};
use crate::bench::{BenchError, wrong};

/// A connection to the worker that shows a session and may ask for quotes.
pub(super) fn quoting(worker: Worker, session: SessionId) -> Result<Opened, BenchError> {
    let opened = Conversation::quoting(worker, session)?;
    if opened.input.is_empty() { Ok(opened.stream) } else { Err(wrong("more than was asked for")) }
}

/// The bytes of one quote.
pub(super) fn one_quote(
    worker: Worker,
    session: SessionId,
    symbol: &str,
) -> Result<Vec<u8>, BenchError> {
    let mut user = Conversation::quoting(worker, session)?;
    user.ask(Instruction::GetAssetValueCurrent, symbol.as_bytes(), Instruction::Data)
}

/// Ends a session while a connection uses it: that connection must be refused from then on.
pub(super) fn revoke(worker: Worker, session: SessionId, symbol: &str) -> Result<(), BenchError> {
    let mut user = Conversation::quoting(worker, session)?;
    let quote = Instruction::GetAssetValueCurrent;
    user.ask(quote, symbol.as_bytes(), Instruction::Data)?;
    let mut other = Conversation::with(worker, session)?;
    other.ask(Instruction::LoginSession, &[], Instruction::SessionId)?;
    other.ask(Instruction::Logout, &[], Instruction::LogoutSuccess)?;
    let words = user.ask(quote, symbol.as_bytes(), Instruction::DataFail)?;
    let words = String::from_utf8_lossy(&words).into_owned();
    if words.starts_with(Reason::SessionUnknown.code()) {
        return Ok(());
    }
    Err(wrong(format!("a session that has ended was refused for another reason: {words}")))
}

/// Questions that are asked one by one.
pub(in crate::bench) struct Conversation {
    stream: Opened,
    session: SessionId,
    asked: u64,
    /// What was read and not yet looked at.
    input: Vec<u8>,
}

impl Conversation {
    fn with(worker: Worker, session: SessionId) -> Result<Conversation, BenchError> {
        Ok(Conversation { stream: worker.connect()?, session, asked: 0, input: Vec::new() })
    }

    /// That may ask for quotes under a session.
    pub(in crate::bench) fn quoting(
        worker: Worker,
        session: SessionId,
    ) -> Result<Conversation, BenchError> {
        let mut opened = Conversation::with(worker, session)?;
        opened.ask(Instruction::LoginSession, &[], Instruction::SessionId)?;
        let state = State::DataTransfer.name().as_bytes();
        // Its answer comes after the list of workers.
        opened.ask(Instruction::SwitchState, state, Instruction::StateSwitchSuccess)?;
        Ok(opened)
    }

    /// A quote must come.
    pub(super) fn quote(&mut self, symbol: &str) -> Result<(), BenchError> {
        let quote = Instruction::GetAssetValueCurrent;
        self.ask(quote, symbol.as_bytes(), Instruction::Data).map(drop)
    }

    /// Asks, and waits for the answer, which must be `wanted`; its data.
    pub(in crate::bench) fn ask(
        &mut self,
        instruction: Instruction,
        data: &[u8],
        wanted: Instruction,
    ) -> Result<Vec<u8>, BenchError> {
        self.asked += 1;
        let mut header = Header::new(instruction.message_type(), instruction as u16, self.asked);
        header.argument_count = u16::from(!data.is_empty());
        header.session = self.session;
        let mut out = Vec::new();
        header.encode(data, &mut out);
        self.stream.write_all(&out)?;
        self.stream.flush()?;
        loop {
            while let Some((frame, length)) = Frame::decode(&self.input).map_err(wrong)? {
                let data = frame.data.to_vec();
                let heard = Instruction::from_number(frame.header.instruction);
                self.input.drain(..length);
                match heard {
                    Some(heard) if heard == wanted => return Ok(data),
                    // It follows a session by itself.
                    Some(Instruction::WorkerList) => {}
                    heard => {
                        let words = String::from_utf8_lossy(&data);
                        return Err(wrong(format!("{heard:?}, not {wanted:?}: {words}")));
                    }
                }
            }
            let mut more = [0; 4_096];
            match self.stream.read(&mut more)? {
                0 => return Err(wrong("the worker has closed a connection")),
                count => self.input.extend_from_slice(&more[..count]),
            }
        }
    }
}
