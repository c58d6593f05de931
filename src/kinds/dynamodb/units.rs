//! What writing costs. Pure.
//!
//! A transaction takes two write units for each KiB of an item that it begins.
//! <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis.html>

use super::body;
use super::layout::Keys;
use super::txn::LARGEST;
use crate::error::Result;

/// Bytes that a row of Teleport's takes as an item; `None` if DynamoDB cannot hold its key.
pub fn size(key: &[u8], bytes: &[u8]) -> Result<Option<usize>> {
    let Ok(mut item) = Keys::Teleport.attributes(key) else { return Ok(None) };
    item.extend(body::decode(bytes)?);
    Ok(Some(item.iter().map(|(name, value)| body::size(name, value)).sum()))
}

/// Whether an item of so many bytes can be written.
pub fn fits(size: usize) -> bool {
    size <= LARGEST
}

/// Write units for an item of so many bytes.
pub fn of_item(size: u64) -> u64 {
    2 * size.div_ceil(1 << 10).max(1)
}

/// Write units for so many items that have so many bytes together, as far as that tells.
pub fn of_items(items: u64, bytes: u64) -> u64 {
    match bytes.checked_div(items) {
        Some(one) => items.saturating_mul(of_item(one)),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::dynamodb::item::from_item;
    use crate::model::Item;

    #[test]
    fn each_kib_that_is_begun_takes_two_units() {
        assert_eq!([of_item(1), of_item(1024), of_item(1025), of_item(0)], [2, 2, 4, 2]);
        assert_eq!([of_items(10, 10_241), of_items(0, 0)], [20, 0]);
    }

    #[test]
    fn a_row_is_counted_as_dynamodb_counts_it() {
        let mut bytes = Vec::new();
        let item = Item { value: vec![7; 100], expires: None, revision: b"12".to_vec() };
        from_item(&item, 1_775_044_800_000_000, &mut bytes).unwrap();
        // HashKey teleport, FullPath teleport/k, Value, Revision, Timestamp with a number of ten digits.
        let wanted = (7 + 8) + (8 + 10) + (5 + 100) + (8 + 2) + (9 + 7);
        assert_eq!(size(b"/k", &bytes).unwrap(), Some(wanted));
        assert_eq!(size(b"\xff", &bytes).unwrap(), None);
        assert!(fits(LARGEST) && !fits(LARGEST + 1));
    }
}
