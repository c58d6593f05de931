//! Access tokens of a cloud's machine identity, used in place of a password.

use crate::error::{Error, Result};
use crate::kinds::postgres::conn::secret::Secret;
use crate::kinds::postgres::options::AuthMode;

/// A fresh token.
#[expect(clippy::unused_async, reason = "metadata servers are asked over the network")]
pub async fn fetch(mode: AuthMode) -> Result<Secret> {
    Err(Error::config(format!("fetch an access token: auth_mode {mode:?} is not available")))
}
