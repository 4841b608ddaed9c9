//! What waits to be written to one client, in order.
//!
//! Small answers are gathered into one piece, which leaves in one write; a long transfer is cut
//! into packets only when its turn comes, so that many clients who wait for the same data share
//! one copy of it. [`Outbox::bytes`] is what bounds it: the owner stops reading, or gives up.
//! [`Outbox::own_bytes`] is the memory that would not be there without this client.
//!
//! Answers are put into memory that the thread lends, and that goes back when they are written, or
//! when the client keeps it waiting.

use std::cell::RefCell;
use std::collections::VecDeque;

use bytes::Bytes;
use papertrader_protocol::frame::{Header, MAX_DATA};

/// About how much one write carries.
const CHUNK: usize = 32 * 1024;
/// Memory that is lent; a chunk may need more.
const LENT: usize = CHUNK + MAX_DATA;
/// Pieces of memory that a thread keeps to lend. More are made when more are needed.
const SPARE: usize = 8;

thread_local! {
    static SPARES: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

fn lend() -> Vec<u8> {
    let spare = SPARES.with_borrow_mut(Vec::pop);
    spare.unwrap_or_else(|| Vec::with_capacity(LENT))
}

/// Takes memory back whose content is of no use any more.
pub(super) fn give_back(mut memory: Vec<u8>) {
    if memory.capacity() >= LENT {
        memory.clear();
        SPARES.with_borrow_mut(|spares| {
            if spares.len() < SPARE {
                spares.push(memory);
            }
        });
    }
}

/// Before a wait: keeps what is in `memory` after `written`, and not much more room than that takes.
pub(super) fn settle(memory: &mut Vec<u8>, written: usize) -> bool {
    let left = memory.get(written..).unwrap_or_default();
    let is_loose = memory.capacity() >= LENT && left.len() < LENT / 2;
    if is_loose {
        let kept = left.to_vec();
        give_back(std::mem::replace(memory, kept));
    }
    is_loose
}

#[derive(Debug)]
enum Piece {
    Frames(Vec<u8>),
    Transfer { header: Header, data: Bytes, next: u16, max: u16 },
}

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// The frames that were put last.
    tail: Vec<u8>,
    /// What comes before them: seldom anything.
    queue: Option<Box<Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    pieces: VecDeque<Piece>,
    /// Bytes of them.
    bytes: usize,
    /// Of these, the bytes of small answers.
    own: usize,
}

impl Outbox {
    /// Bytes that wait, not counting the headers of transfers.
    pub(super) fn bytes(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.bytes) + self.tail.len()
    }

    /// Bytes that wait and that no other client waits for.
    pub(super) fn own_bytes(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.own) + self.tail.len()
    }

    /// Before a wait: memory that was lent and is not filled goes back.
    pub(super) fn settle(&mut self) {
        if self.tail.capacity() > 0 {
            settle(&mut self.tail, 0);
        }
    }

    /// Appends whole frames.
    #[inline]
    pub(super) fn put(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.tail.len() >= CHUNK {
            self.close_tail();
        }
        if self.tail.capacity() == 0 {
            self.tail = lend();
        }
        write(&mut self.tail);
    }

    /// Appends data in as many packets as it takes. The packet numbers of `header` are set here.
    pub(super) fn put_data(&mut self, header: Header, data: &Bytes) {
        if data.len() <= MAX_DATA {
            let header = Header { number: 1, max: 1, ..header };
            return self.put(|out| header.encode(data, out));
        }
        let max = u16::try_from(data.len().div_ceil(MAX_DATA)).unwrap_or(u16::MAX);
        self.close_tail();
        let queue = self.queue.get_or_insert_default();
        queue.bytes += data.len();
        queue.pieces.push_back(Piece::Transfer { header, data: data.clone(), next: 1, max });
    }

    /// Takes what the next write carries; empty when nothing waits.
    pub(super) fn take_chunk(&mut self) -> Vec<u8> {
        if let Some(queue) = &mut self.queue {
            if let Some(chunk) = queue.take_chunk() {
                return chunk;
            }
            self.queue = None;
        }
        match self.tail.is_empty() {
            true => Vec::new(),
            false => std::mem::take(&mut self.tail),
        }
    }

    /// What is put from now on comes in another piece.
    fn close_tail(&mut self) {
        let tail = std::mem::take(&mut self.tail);
        if !tail.is_empty() {
            let queue = self.queue.get_or_insert_default();
            queue.bytes += tail.len();
            queue.own += tail.len();
            queue.pieces.push_back(Piece::Frames(tail));
        }
    }
}

impl Queue {
    fn take_chunk(&mut self) -> Option<Vec<u8>> {
        match self.pieces.pop_front()? {
            Piece::Frames(out) => {
                self.bytes -= out.len();
                self.own -= out.len();
                Some(out)
            }
            Piece::Transfer { header, data, mut next, max } => {
                let left = data.len() - usize::from(next - 1) * MAX_DATA;
                let mut out = Vec::with_capacity(left.min(CHUNK) + MAX_DATA);
                while next <= max && out.len() < CHUNK {
                    let from = usize::from(next - 1) * MAX_DATA;
                    let packet = data.get(from..data.len().min(from + MAX_DATA));
                    let packet = packet.unwrap_or_default();
                    Header { number: next, max, ..header }.encode(packet, &mut out);
                    self.bytes -= packet.len();
                    if next == max {
                        return Some(out);
                    }
                    next += 1;
                }
                self.pieces.push_front(Piece::Transfer { header, data, next, max });
                Some(out)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use papertrader_protocol::Frame;
    use papertrader_protocol::instruction::MessageType;
    use papertrader_protocol::transfer::Assembly;

    use super::*;

    #[test]
    fn what_is_put_comes_out_in_order_and_the_count_ends_at_zero() {
        let mut outbox = Outbox::default();
        let header = |request| Header::new(MessageType::DataTransfer, 1, request);
        let sizes = [0, 3, 40 * MAX_DATA + 1, 0, MAX_DATA, MAX_DATA + 1, 20 * MAX_DATA, 5];
        for (request, size) in sizes.iter().enumerate() {
            outbox.put_data(header(request as u64), &Bytes::from(vec![request as u8; *size]));
        }
        let mut bytes = Vec::new();
        loop {
            let chunk = outbox.take_chunk();
            if chunk.is_empty() {
                break;
            }
            assert!(chunk.len() < 2 * CHUNK);
            bytes.extend(chunk);
        }
        assert_eq!((outbox.bytes(), outbox.own_bytes()), (0, 0));
        let mut rest = &bytes[..];
        for (request, size) in sizes.iter().enumerate() {
            let mut assembly = Assembly::default();
            let data = loop {
                let (frame, used) = Frame::decode(rest).unwrap().unwrap();
                assert_eq!(frame.header.request, request as u64);
                assembly.push(&frame, usize::MAX).unwrap();
                rest = &rest[used..];
                match assembly.finished() {
                    Ok(data) => break data,
                    Err(unfinished) => assembly = unfinished,
                }
            };
            assert_eq!(data, vec![request as u8; *size]);
        }
        assert!(rest.is_empty());
    }
}
