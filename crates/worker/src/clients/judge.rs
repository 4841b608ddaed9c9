//! Whether a client's message is listened to.
//!
//! The precedence of refusals, first to last:
//! 1. a link header (only the master's links have one): `badFrame`, and the connection is closed;
//! 2. an instruction that does not exist: `unknownInstruction`;
//! 3. one that is not a client's to send: `notForClients`;
//! 4. the wrong message type, or more than one packet: `badFrame`, the connection goes on;
//! 5. the wrong state: `wrongState`;
//! 6. the session: `sessionRequired`, `sessionUnknown`, `sessionExpired`;
//! 7. the arguments, in the words of [`Request::parse`].
//!
//! A refusal travels under the instruction's own failure return. What has none, because the
//! instruction does not exist or is not a client's, is `commandFail`, or `dataFail` for an unknown
//! instruction that came as a data transfer.

use papertrader_protocol::instruction::{Instruction, MessageType, State, States};
use papertrader_protocol::{Failure, Frame, Reason, Request, SessionId};

use crate::auth;

/// A message that is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The failure return.
    pub(super) instruction: Instruction,
    /// Why.
    pub(super) failure: Failure,
    /// The connection cannot go on.
    pub(super) fatal: bool,
}

/// Judges a frame in `state`. `verify` looks a session up that the worker has to know.
pub(super) fn judge(
    frame: &Frame<'_>,
    state: State,
    verify: impl FnOnce(SessionId) -> Result<(), Reason>,
) -> Result<(Instruction, Request), Refusal> {
    let header = &frame.header;
    let refusal = |instruction: Instruction, failure: Failure| {
        Err(Refusal { instruction, failure, fatal: false })
    };
    if header.link.is_some() {
        let failure = Failure::new(Reason::BadFrame, "a client's message has no link header");
        return Err(Refusal { instruction: Instruction::CommandFail, failure, fatal: true });
    }
    let Some(instruction) = Instruction::from_number(header.instruction) else {
        let failure = match header.message_type {
            MessageType::DataTransfer => Instruction::DataFail,
            _ => Instruction::CommandFail,
        };
        return refusal(failure, Reason::UnknownInstruction.into());
    };
    if instruction.states() == States::Never {
        return refusal(Instruction::CommandFail, Reason::NotForClients.into());
    }
    let own = instruction.failure();
    if header.message_type != instruction.message_type() {
        let words = format!("{} does not travel under this messageType", instruction.name());
        return refusal(own, Failure::new(Reason::BadFrame, words));
    }
    if header.max != 1 {
        return refusal(own, Failure::new(Reason::BadFrame, "a request is one packet"));
    }
    if !instruction.states().allow(state) {
        return refusal(own, Reason::WrongState.into());
    }
    if instruction.needs_session() {
        if header.session.is_none() {
            return refusal(own, Reason::SessionRequired.into());
        }
        if !auth::is_tunnelled(instruction)
            && let Err(reason) = verify(header.session)
        {
            return refusal(own, reason.into());
        }
    }
    match Request::parse(instruction, header.argument_count, frame.data) {
        Ok(request) => Ok((instruction, request)),
        Err(reason) => refusal(own, reason.into()),
    }
}

#[cfg(test)]
mod tests {
    use papertrader_core::ids::WorkerId;
    use papertrader_core::time::WallTime;
    use papertrader_protocol::Header;
    use papertrader_protocol::frame::LinkHeader;

    use super::*;

    fn header(instruction: Instruction) -> Header {
        let mut header = Header::new(instruction.message_type(), instruction as u16, 1);
        header.session = SessionId::from_bytes([1; 16]);
        header
    }

    fn refusal(header: Header, data: &str, session: Result<(), Reason>) -> (Instruction, Reason) {
        let frame = Frame { header, data: data.as_bytes() };
        let refusal = judge(&frame, State::Command, |_| session).unwrap_err();
        assert!(!refusal.fatal);
        (refusal.instruction, refusal.failure.reason)
    }

    /// Each row has every fault of the rows below it as well: the refusal is the row's own.
    #[test]
    fn precedence() {
        use Instruction as I;
        let unknown = Err(Reason::SessionUnknown);
        let link = LinkHeader {
            worker: WorkerId([1; 16]),
            received_at: WallTime(0),
            sequence: 0,
            deadline: WallTime(0),
            client: "127.0.0.1:1".parse().unwrap(),
        };
        let with_link = Header { link: Some(link), instruction: 0xffff, ..header(I::Ping) };
        let frame = Frame { header: with_link, data: b"" };
        let fatal = judge(&frame, State::Command, |_| unknown).unwrap_err();
        assert_eq!((fatal.failure.reason, fatal.fatal), (Reason::BadFrame, true));

        let data = MessageType::DataTransfer;
        let nonsense = Header { instruction: 0xffff, max: 2, ..header(I::SellAsset) };
        assert_eq!(refusal(nonsense, "", unknown), (I::CommandFail, Reason::UnknownInstruction));
        let nonsense = Header { message_type: data, ..nonsense };
        assert_eq!(refusal(nonsense, "", unknown), (I::DataFail, Reason::UnknownInstruction));

        let returned = Header { message_type: data, max: 2, ..header(I::OrderQueued) };
        assert_eq!(refusal(returned, "", unknown), (I::CommandFail, Reason::NotForClients));

        let command = MessageType::Command;
        let mistyped = Header { message_type: command, max: 2, ..header(I::GetAssetInfo) };
        assert_eq!(refusal(mistyped, "", unknown), (I::DataFail, Reason::BadFrame));
        let long = Header { max: 2, ..header(I::GetAssetInfo) };
        assert_eq!(refusal(long, "", unknown), (I::DataFail, Reason::BadFrame));

        let data_in_command_state = header(I::GetAssetInfo);
        let refused = refusal(data_in_command_state, "", unknown);
        assert_eq!(refused, (I::DataFail, Reason::WrongState));

        let without = Header { session: SessionId::NONE, ..header(I::SellAsset) };
        assert_eq!(refusal(without, "", unknown), (I::SellFail, Reason::SessionRequired));
        let refused = refusal(header(I::SellAsset), "", unknown);
        assert_eq!(refused, (I::SellFail, Reason::SessionUnknown));
        let refused = refusal(header(I::SellAsset), "", Err(Reason::SessionExpired));
        assert_eq!(refused, (I::SellFail, Reason::SessionExpired));

        let refused = refusal(header(I::SellAsset), "", Ok(()));
        assert_eq!(refused, (I::SellFail, Reason::ArgumentCount));
    }

    #[test]
    fn a_session_that_is_not_known_here_may_log_in() {
        let login = header(Instruction::LoginSession);
        let frame = Frame { header: login, data: b"" };
        let judged = judge(&frame, State::Command, |_| Err(Reason::SessionUnknown));
        assert_eq!(judged, Ok((Instruction::LoginSession, Request::LoginSession)));
        let header = Header { session: SessionId::NONE, ..login };
        let refused = refusal(header, "", Ok(()));
        assert_eq!(refused, (Instruction::LoginFail, Reason::SessionRequired));
    }
}
