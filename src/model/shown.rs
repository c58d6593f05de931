//! How a key is shown to people: never as it is.
//!
//! Join tokens and session ids are parts of keys. The first two components tell what kind of item it is, the hash tells two
//! of them apart, and is the same in every command.

/// A key of a table (empty in key-value layouts), without what may be secret in it.
pub fn shown(table: &str, key: &[u8]) -> String {
    let hash = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, key).simple().to_string();
    let hash = &hash[..12];
    if !table.is_empty() {
        return format!("{table} #{hash}");
    }
    let text = String::from_utf8_lossy(key);
    let prefix = text.match_indices('/').nth(2).map_or("", |(at, _)| &text[..=at]);
    format!("{prefix}… #{hash}")
}
