//! Data transfer (4.7): what is longer than one frame is split into packets 1…n of n, in order.

use crate::frame::{Frame, Header, MAX_DATA};

/// The longest data that one answer may carry: 65,535 packets.
pub const MAX_TRANSFER: usize = MAX_DATA * u16::MAX as usize;

/// Appends the frames that carry `data` under `header`; its packet numbers are set here.
/// Returns the number of frames. Data beyond [`MAX_TRANSFER`] must be refused before.
pub fn encode(header: Header, data: &[u8], out: &mut Vec<u8>) -> u16 {
    debug_assert!(data.len() <= MAX_TRANSFER);
    let max = data.len().div_ceil(MAX_DATA).max(1) as u16;
    for number in 1..=max {
        let from = usize::from(number - 1) * MAX_DATA;
        let packet = &data[from..data.len().min(from + MAX_DATA)];
        Header { number, max, ..header }.encode(packet, out);
    }
    max
}

/// Puts the packets of one answer together again.
#[derive(Debug, Default)]
pub struct Assembly {
    data: Vec<u8>,
    max: u16,
    received: u16,
}

/// How far a transfer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Packets that arrived.
    pub received: u16,
    /// Packets in all.
    pub max: u16,
}

/// Packets do not follow each other, or there are more than the receiver takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Not the packet that comes next.
    #[error("packet {got} of {max} came where packet {expected} was due")]
    Order {
        /// The packet that was due.
        expected: u16,
        /// The packet that came.
        got: u16,
        /// Packets in all, as this packet says.
        max: u16,
    },
    /// More data than the receiver takes.
    #[error("an answer of {0} packets is more than is taken here")]
    TooLarge(u16),
}

impl Assembly {
    /// Takes the next packet. `limit` is the most bytes that are taken in all.
    pub fn push(&mut self, frame: &Frame<'_>, limit: usize) -> Result<Progress, TransferError> {
        let Header { number, max, .. } = frame.header;
        // After packet 65,535 none is due, and 0 is no packet's number.
        let expected = self.received.wrapping_add(1);
        if expected == 0 || number != expected || (self.received > 0 && max != self.max) {
            return Err(TransferError::Order { expected, got: number, max });
        }
        if self.data.len() + frame.data.len() > limit {
            return Err(TransferError::TooLarge(max));
        }
        self.max = max;
        self.received = number;
        self.data.extend_from_slice(frame.data);
        Ok(Progress { received: number, max })
    }

    /// The whole data, once the last packet is there.
    pub fn finished(self) -> Result<Vec<u8>, Assembly> {
        if self.received > 0 && self.received == self.max { Ok(self.data) } else { Err(self) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instruction::{Instruction, MessageType};

    fn frames(data: &[u8]) -> (u16, Vec<u8>) {
        let mut out = Vec::new();
        let header = Header::new(MessageType::DataTransfer, Instruction::Data as u16, 9);
        let count = encode(header, data, &mut out);
        (count, out)
    }

    fn decode_all(mut bytes: &[u8]) -> Vec<Frame<'_>> {
        let mut frames = Vec::new();
        while let Ok(Some((frame, used))) = Frame::decode(bytes) {
            frames.push(frame);
            bytes = &bytes[used..];
        }
        assert!(bytes.is_empty());
        frames
    }

    #[test]
    fn data_comes_in_numbered_packets_and_goes_together_again() {
        for size in [0, 1, MAX_DATA, MAX_DATA + 1, 3 * MAX_DATA, 3 * MAX_DATA + 5] {
            let data: Vec<u8> = (0..size).map(|i| i as u8).collect();
            let (count, bytes) = frames(&data);
            assert_eq!(usize::from(count), size.div_ceil(MAX_DATA).max(1));
            let mut assembly = Assembly::default();
            for (i, frame) in decode_all(&bytes).iter().enumerate() {
                let progress = assembly.push(frame, usize::MAX).unwrap();
                assert_eq!(progress, Progress { received: i as u16 + 1, max: count });
            }
            assert_eq!(assembly.finished().unwrap(), data);
        }
    }

    #[test]
    fn a_packet_out_of_order_and_too_much_are_refused() {
        let data = vec![7; 2 * MAX_DATA];
        let (_, bytes) = frames(&data);
        let frames = decode_all(&bytes);
        let mut assembly = Assembly::default();
        let error = TransferError::Order { expected: 1, got: 2, max: 2 };
        assert_eq!(assembly.push(&frames[1], usize::MAX), Err(error));
        assembly.push(&frames[0], MAX_DATA).unwrap();
        assert_eq!(assembly.push(&frames[1], MAX_DATA), Err(TransferError::TooLarge(2)));
        assert!(assembly.finished().is_err());
    }

    #[test]
    fn a_packet_after_the_last_possible_one_is_refused() {
        let mut header = Header::new(MessageType::DataTransfer, Instruction::Data as u16, 1);
        header.max = u16::MAX;
        let mut assembly = Assembly::default();
        for number in 1..=u16::MAX {
            assembly.push(&Frame { header: Header { number, ..header }, data: &[] }, 0).unwrap();
        }
        for number in [0, 1, u16::MAX] {
            let frame = Frame { header: Header { number, ..header }, data: &[] };
            let error = TransferError::Order { expected: 0, got: number, max: u16::MAX };
            assert_eq!(assembly.push(&frame, 0), Err(error));
        }
        assert_eq!(assembly.finished().unwrap(), []);
    }
}
