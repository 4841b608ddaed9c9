//! The frame: the message structure of 4.4 in 40 bytes, big-endian, and its data.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 2 | messageType |
//! | 2 | 2 | instruction |
//! | 4 | 4 | dataSize: bytes of data, at most 16,384 |
//! | 8 | 2 | argumentCount |
//! | 10 | 2 | dataMessageNumber: this packet, from 1 |
//! | 12 | 2 | dataMessageMax: packets in all |
//! | 14 | 1 | protocolVersion: 1 |
//! | 15 | 1 | flags: bit 0, a link header follows; bit 1, the answer can never change |
//! | 16 | 8 | requestNumber: chosen by who asks, repeated in every answer |
//! | 24 | 16 | sessionID; zero for none |
//! | 40 | 64 | the link header, only between worker and master |
//! | | dataSize | data |
//!
//! Decoding never reserves memory: it borrows the data from the buffer that it is given.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use papertrader_core::ids::WorkerId;
use papertrader_core::time::WallTime;

use crate::instruction::MessageType;
use crate::session::SessionId;

/// Bytes of the fixed header.
pub const HEADER: usize = 40;
/// Bytes of the link header.
pub const LINK_HEADER: usize = 64;
/// The most data in one frame.
pub const MAX_DATA: usize = 16 * 1024;
/// The longest frame.
pub const MAX_FRAME: usize = HEADER + LINK_HEADER + MAX_DATA;
/// The version of the protocol.
pub const VERSION: u8 = 1;

const FLAG_LINK: u8 = 1;
const FLAG_FINAL: u8 = 2;

/// The fixed header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The message type.
    pub message_type: MessageType,
    /// The number of the instruction, known or not.
    pub instruction: u16,
    /// The number of arguments in the data.
    pub argument_count: u16,
    /// This packet's number, from 1.
    pub number: u16,
    /// The number of packets.
    pub max: u16,
    /// On a `data` answer: it can never change, so it may be kept.
    pub is_final: bool,
    /// Chosen by who asks, repeated in every answer.
    pub request: u64,
    /// The session, or none.
    pub session: SessionId,
    /// What a worker adds to what it passes on.
    pub link: Option<LinkHeader>,
}

/// What a worker adds to each frame for the master (4.1, 2.1.8).
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 16 | workerUUID |
/// | 16 | 8 | receivedAt: when the worker received the command, ns since 1970 |
/// | 24 | 8 | sequence: the worker's own, ascending |
/// | 32 | 8 | deadline: after it the master refuses an order, ns since 1970; 0 for none |
/// | 40 | 16 | the client's address (IPv4 mapped into IPv6) |
/// | 56 | 2 | the client's port |
/// | 58 | 6 | zero |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkHeader {
    /// Who sends.
    pub worker: WorkerId,
    /// When the worker received the command.
    pub received_at: WallTime,
    /// The worker's own sequence.
    pub sequence: u64,
    /// After it the master refuses an order; zero for none.
    pub deadline: WallTime,
    /// Where the client is.
    pub client: SocketAddr,
}

/// A whole frame. `data` is borrowed from what was read. It may be a password's hash or a session
/// ID, so that it never prints itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The header.
    pub header: Header,
    /// The data, at most [`MAX_DATA`] bytes.
    pub data: &'a [u8],
}

/// Bytes that cannot be framed: the connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// An unknown protocol version.
    #[error("protocol version {0} is not spoken here")]
    Version(u8),
    /// More data than a frame may carry.
    #[error("a frame of {0} bytes of data is over the limit of 16384")]
    TooLarge(u32),
    /// A field has a value that it cannot have.
    #[error("{0} has a value that it cannot have")]
    Field(&'static str),
}

impl Header {
    /// A header for a single packet without arguments, session or link.
    pub fn new(message_type: MessageType, instruction: u16, request: u64) -> Header {
        Header {
            message_type,
            instruction,
            argument_count: 0,
            number: 1,
            max: 1,
            is_final: false,
            request,
            session: SessionId::NONE,
            link: None,
        }
    }

    /// Appends the header and the data. `data` must be at most [`MAX_DATA`] bytes.
    pub fn encode(&self, data: &[u8], out: &mut Vec<u8>) {
        debug_assert!(data.len() <= MAX_DATA);
        let link = if self.link.is_some() { LINK_HEADER } else { 0 };
        out.reserve(HEADER + link + data.len());
        out.extend_from_slice(&(self.message_type as u16).to_be_bytes());
        out.extend_from_slice(&self.instruction.to_be_bytes());
        out.extend_from_slice(&(data.len() as u32).to_be_bytes());
        out.extend_from_slice(&self.argument_count.to_be_bytes());
        out.extend_from_slice(&self.number.to_be_bytes());
        out.extend_from_slice(&self.max.to_be_bytes());
        out.push(VERSION);
        let link_flag = if self.link.is_some() { FLAG_LINK } else { 0 };
        out.push(link_flag | if self.is_final { FLAG_FINAL } else { 0 });
        out.extend_from_slice(&self.request.to_be_bytes());
        out.extend_from_slice(self.session.bytes());
        if let Some(link) = &self.link {
            link.encode(out);
        }
        out.extend_from_slice(data);
    }

    /// Appends the header and what `write` appends, which must be at most [`MAX_DATA`] bytes.
    pub fn encode_with(&self, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        let start = out.len();
        self.encode(&[], out);
        let data = out.len();
        write(out);
        let size = out.len().saturating_sub(data);
        debug_assert!(size <= MAX_DATA);
        if let Some(place) = out.get_mut(start + 4..start + 8) {
            place.copy_from_slice(&(size as u32).to_be_bytes());
        }
    }
}

/// What tells requests of one instruction apart.
#[derive(Debug, Clone, Copy)]
pub struct Glance<'a> {
    /// The request number.
    pub request: u64,
    /// The session, or none.
    pub session: SessionId,
    /// The data.
    pub data: &'a [u8],
    /// Bytes of the frame.
    pub used: usize,
}

/// Reads a frame from the start of `bytes` if there is a whole one of just this kind: one packet of an
/// instruction with so many arguments, without flags. What it is else, [`Frame::decode`] says, which
/// takes longer.
#[inline]
pub fn glance(
    bytes: &[u8],
    message_type: MessageType,
    instruction: u16,
    arguments: u16,
) -> Option<Glance<'_>> {
    let fixed = bytes.first_chunk::<HEADER>()?;
    let kind = u32::from(message_type as u16) << 16 | u32::from(instruction);
    let rest = u64::from(arguments) << 48 | 1 << 32 | 1 << 16 | u64::from(VERSION) << 8;
    if u32::from_be_bytes(array(fixed, 0)) != kind || u64::from_be_bytes(array(fixed, 8)) != rest {
        return None;
    }
    let size = u32::from_be_bytes(array(fixed, 4)) as usize;
    if size > MAX_DATA {
        return None;
    }
    let used = HEADER + size;
    Some(Glance {
        request: u64::from_be_bytes(array(fixed, 16)),
        session: SessionId::from_bytes(array(fixed, 24)),
        data: bytes.get(HEADER..used)?,
        used,
    })
}

/// Puts a request number into a whole frame that was encoded with another. What is no frame stays as
/// it is.
#[inline]
pub fn set_request(frame: &mut [u8], request: u64) {
    if let Some(place) = frame.get_mut(16..24) {
        place.copy_from_slice(&request.to_be_bytes());
    }
}

impl LinkHeader {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.worker.0);
        out.extend_from_slice(&self.received_at.0.to_be_bytes());
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&self.deadline.0.to_be_bytes());
        let address = match self.client.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        out.extend_from_slice(&address.octets());
        out.extend_from_slice(&self.client.port().to_be_bytes());
        out.extend_from_slice(&[0; 6]);
    }

    fn decode(bytes: &[u8; LINK_HEADER]) -> Result<LinkHeader, FrameError> {
        if bytes[58..64] != [0; 6] {
            return Err(FrameError::Field("link header padding"));
        }
        let address = Ipv6Addr::from(array::<16>(bytes, 40));
        let address = address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4);
        Ok(LinkHeader {
            worker: WorkerId(array(bytes, 0)),
            received_at: WallTime(i64::from_be_bytes(array(bytes, 16))),
            sequence: u64::from_be_bytes(array(bytes, 24)),
            deadline: WallTime(i64::from_be_bytes(array(bytes, 32))),
            client: SocketAddr::new(address, u16::from_be_bytes(array(bytes, 56))),
        })
    }
}

impl std::fmt::Debug for Frame<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frame")
            .field("header", &self.header)
            .field("data", &format_args!("{} bytes", self.data.len()))
            .finish()
    }
}

impl<'a> Frame<'a> {
    /// Reads one frame from the start of `bytes`, and says how many bytes it took. `Ok(None)`
    /// means that more bytes are needed. Errors are found as early as the bytes allow.
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Result<Option<(Frame<'a>, usize)>, FrameError> {
        let Some(fixed) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
        let u16_at = |at| u16::from_be_bytes(array(fixed, at));
        if fixed[14] != VERSION {
            return Err(FrameError::Version(fixed[14]));
        }
        let message_type =
            MessageType::from_number(u16_at(0)).ok_or(FrameError::Field("messageType"))?;
        let size = u32::from_be_bytes(array(fixed, 4));
        if size as usize > MAX_DATA {
            return Err(FrameError::TooLarge(size));
        }
        let (number, max) = (u16_at(10), u16_at(12));
        if number == 0 || number > max {
            return Err(FrameError::Field("dataMessageNumber"));
        }
        let flags = fixed[15];
        if flags & !(FLAG_LINK | FLAG_FINAL) != 0 {
            return Err(FrameError::Field("flags"));
        }
        let mut start = HEADER;
        let mut link = None;
        if flags & FLAG_LINK != 0 {
            let Some(bytes) = bytes[HEADER..].first_chunk::<LINK_HEADER>() else {
                return Ok(None);
            };
            link = Some(LinkHeader::decode(bytes)?);
            start += LINK_HEADER;
        }
        let end = start + size as usize;
        let Some(data) = bytes.get(start..end) else { return Ok(None) };
        let header = Header {
            message_type,
            instruction: u16_at(2),
            argument_count: u16_at(8),
            number,
            max,
            is_final: flags & FLAG_FINAL != 0,
            request: u64::from_be_bytes(array(fixed, 16)),
            session: SessionId::from_bytes(array(fixed, 24)),
            link,
        };
        Ok(Some((Frame { header, data }, end)))
    }
}

/// `N` bytes at a constant offset of a fixed array: the offsets above are all inside.
#[inline]
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header_strategy() -> impl Strategy<Value = Header> {
        let link = (
            any::<[u8; 16]>(),
            any::<i64>(),
            any::<u64>(),
            any::<i64>(),
            any::<[u8; 16]>(),
            any::<u16>(),
        )
            .prop_map(|(worker, received, sequence, deadline, address, port)| LinkHeader {
                worker: WorkerId(worker),
                received_at: WallTime(received),
                sequence,
                deadline: WallTime(deadline),
                client: {
                    let address = Ipv6Addr::from(address);
                    let ip = address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4);
                    SocketAddr::new(ip, port)
                },
            });
        (
            1u16..=4,
            any::<u16>(),
            any::<u16>(),
            any::<(u16, u16)>(),
            any::<bool>(),
            any::<u64>(),
            any::<[u8; 16]>(),
            proptest::option::of(link),
        )
            .prop_map(
                |(kind, instruction, argument_count, (a, b), is_final, request, session, link)| {
                    Header {
                        message_type: MessageType::from_number(kind).unwrap(),
                        instruction,
                        argument_count,
                        number: a.min(b).max(1),
                        max: a.max(b).max(1),
                        is_final,
                        request,
                        session: SessionId::from_bytes(session),
                        link,
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn frames_round_trip_and_every_cut_asks_for_more(
            header in header_strategy(),
            data in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut bytes = Vec::new();
            header.encode(&data, &mut bytes);
            for cut in 0..bytes.len() {
                prop_assert_eq!(Frame::decode(&bytes[..cut]), Ok(None));
            }
            let length = bytes.len();
            bytes.extend_from_slice(b"next");
            let (frame, used) = Frame::decode(&bytes).unwrap().unwrap();
            prop_assert_eq!(used, length);
            prop_assert_eq!(frame.header, header);
            prop_assert_eq!(frame.data, &data[..]);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Frame::decode(&bytes);
            let _ = glance(&bytes, MessageType::Command, 1, 1);
        }

        #[test]
        fn a_glance_sees_what_decoding_does_or_nothing(
            header in header_strategy(),
            single: bool,
            data in proptest::collection::vec(any::<u8>(), 0..100),
            cut in 0usize..200,
        ) {
            let plain = Header { number: 1, max: 1, is_final: false, link: None, ..header };
            let header = if single { plain } else { header };
            let mut bytes = Vec::new();
            header.encode(&data, &mut bytes);
            bytes.truncate(cut);
            let Header { message_type, instruction, argument_count, .. } = header;
            let glance = glance(&bytes, message_type, instruction, argument_count);
            let decoded = Frame::decode(&bytes).unwrap().filter(|_| header == plain);
            prop_assert_eq!(glance.is_some(), decoded.is_some());
            if let (Some(glance), Some((frame, used))) = (glance, decoded) {
                prop_assert_eq!((glance.request, glance.used), (header.request, used));
                prop_assert_eq!((glance.session, glance.data), (header.session, frame.data));
            }
            let other = super::glance(&bytes, message_type, instruction, argument_count ^ 1);
            prop_assert!(other.is_none());
        }

        #[test]
        fn no_damaged_frame_makes_it_panic(header in header_strategy(), at in 0usize..104, byte: u8) {
            let mut bytes = Vec::new();
            header.encode(b"data", &mut bytes);
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            let _ = Frame::decode(&bytes);
        }
    }

    #[test]
    fn a_frame_does_not_print_its_data() {
        let header = Header::new(MessageType::Command, 1, 7);
        let printed = format!("{:?}", Frame { header, data: b"secret" });
        assert!(printed.ends_with("data: 6 bytes }"), "{printed}");
    }

    #[test]
    fn what_cannot_be_framed_is_named() {
        let mut good = Vec::new();
        Header::new(MessageType::Command, 1, 7).encode(&[], &mut good);
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Frame::decode(&bytes).map(|_| ()).unwrap_err()
        };
        assert_eq!(with(14, 2), FrameError::Version(2));
        assert_eq!(with(1, 0), FrameError::Field("messageType"));
        assert_eq!(with(1, 5), FrameError::Field("messageType"));
        assert_eq!(with(4, 1), FrameError::TooLarge(1 << 24));
        assert_eq!(with(11, 0), FrameError::Field("dataMessageNumber"));
        assert_eq!(with(11, 2), FrameError::Field("dataMessageNumber"));
        assert_eq!(with(15, 4), FrameError::Field("flags"));
    }
}
