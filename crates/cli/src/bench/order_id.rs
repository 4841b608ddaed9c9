//! Client order IDs of the loads.
//!
//! Invariant: the orders of a run have different ones, which ascend with time as the SDK's do, and can
//! be written down again when the books are looked at.

/// A client order ID as the SDK makes them, a UUID that ascends with time: of the order `index` of the
/// client `number`, sent at `at` microseconds after `start`.
pub(super) fn put_id(start: i64, at: u32, number: usize, index: usize, out: &mut Vec<u8>) {
    let time = start as u64 / 1_000_000 + u64::from(at) / 1_000;
    let unique = (number as u64) << 40 | index as u64;
    let high = time << 16 | 0x7000 | unique >> 52;
    let low = 0x8000_0000_0000_0000 | unique & 0x000f_ffff_ffff_ffff;
    let digits = u128::from(high) << 64 | u128::from(low);
    for place in 0..32 {
        if matches!(place, 8 | 12 | 16 | 20) {
            out.push(b'-');
        }
        let digit = (digits >> (124 - 4 * place)) as usize & 15;
        out.push(b"0123456789abcdef"[digit]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_order_ids_are_uuids_that_differ_and_ascend() {
        let id = |at, number, index| {
            let mut id = Vec::new();
            put_id(1_700_000_000_123_456_789, at, number, index, &mut id);
            let id = String::from_utf8(id).unwrap();
            let uuid = uuid::Uuid::parse_str(&id).unwrap();
            assert_eq!((uuid.get_version_num(), uuid.to_string()), (7, id.clone()));
            id
        };
        assert!(id(0, 9_999, 5) < id(1_000, 0, 6));
        let all = [id(0, 0, 0), id(0, 0, 1), id(0, 1, 0), id(0, 4_096, 0), id(0, 9_999, 1)];
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
    }
}
