//! The reference kind's bodies: a version and two fields, either of which may be a hole in a patch.
//!
//! Layout: version as u64 BE, then per field a tag (`v` value, `u` unchanged) and, for a value, u32 BE length and bytes.
//! The version is the world's own count of changes, unique over everything that was ever written, so that a test can say
//! of any body which moment of its key it is. Nothing here knows time or expiry.

use crate::error::{Error, Result};

/// A body, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body<'a> {
    /// Unique among all changes of a world, growing.
    pub version: u64,
    /// The fields; `None` is a hole.
    pub fields: [Option<&'a [u8]>; 2],
}

impl<'a> Body<'a> {
    /// Takes bytes apart.
    ///
    /// # Errors
    /// Corrupt, if they are not a body.
    pub fn read(bytes: &'a [u8]) -> Result<Self> {
        let (version, rest) = bytes.split_first_chunk::<8>().ok_or_else(broken)?;
        let (first, rest) = field(rest)?;
        let (second, rest) = field(rest)?;
        if !rest.is_empty() {
            return Err(broken());
        }
        Ok(Self { version: u64::from_be_bytes(*version), fields: [first, second] })
    }

    /// Appends the bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.version.to_be_bytes());
        for field in self.fields {
            let Some(value) = field else {
                out.push(b'u');
                continue;
            };
            out.push(b'v');
            out.extend_from_slice(&u32::try_from(value.len()).expect("a field stays under 4 GiB").to_be_bytes());
            out.extend_from_slice(value);
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// This body with its holes filled from an older image.
    #[must_use]
    pub fn filled(self, older: Self) -> Self {
        let [first, second] = self.fields;
        Self { version: self.version, fields: [first.or(older.fields[0]), second.or(older.fields[1])] }
    }

    /// Whether there is no hole.
    pub fn is_whole(&self) -> bool {
        self.fields.iter().all(Option::is_some)
    }
}

fn field(bytes: &[u8]) -> Result<(Option<&[u8]>, &[u8])> {
    match bytes.split_first() {
        Some((b'u', rest)) => Ok((None, rest)),
        Some((b'v', rest)) => {
            let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(broken)?;
            let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(broken)?;
            Ok((Some(value), rest))
        }
        _ => Err(broken()),
    }
}

fn broken() -> Error {
    Error::corrupt("read a body of the memory kind: it is not a version and two fields")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_body_comes_back_as_it_was(version: u64, first: Option<Vec<u8>>, second: Option<Vec<u8>>) {
            let body = Body { version, fields: [first.as_deref(), second.as_deref()] };
            let bytes = body.bytes();
            prop_assert_eq!(Body::read(&bytes).unwrap(), body);
        }

        #[test]
        fn strange_bytes_are_an_error_and_no_panic(bytes: Vec<u8>) {
            if let Ok(body) = Body::read(&bytes) {
                prop_assert_eq!(body.bytes(), bytes);
            }
        }
    }
}
