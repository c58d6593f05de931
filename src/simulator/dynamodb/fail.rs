//! What the service says when it refuses: the error's type, its status, its sentence.
//!
//! The types and their statuses are those of the API reference; sentences are the service's own where a client could match on them.

use serde_json::{Map, Value as Json, json};

use super::value::Item;
use super::wire;

/// The errors that are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request that breaks a rule of the API.
    Validation,
    /// No such table, index, stream or shard.
    ResourceNotFound,
    /// The table exists already, or is being changed.
    ResourceInUse,
    /// A condition did not hold.
    ConditionalCheckFailed,
    /// A transaction was not done; the reasons say why.
    TransactionCanceled,
    /// An ordinary write met a transaction.
    TransactionConflict,
    /// A token came again with another request.
    IdempotentParameterMismatch,
    /// More than the table's throughput.
    ProvisionedThroughputExceeded,
    /// More calls than the control plane takes.
    Throttling,
    /// More readers or calls than a stream takes.
    LimitExceeded,
    /// An iterator older than 15 minutes.
    ExpiredIterator,
    /// The record is older than 24 hours.
    TrimmedDataAccess,
    /// The service itself failed.
    InternalServerError,
    /// The request is not the JSON that it should be.
    Serialization,
    /// No such call.
    UnknownOperation,
    /// The request is not signed.
    MissingAuthenticationToken,
}

impl Kind {
    /// Type and HTTP status on the wire.
    pub fn wire(self) -> (&'static str, u16) {
        match self {
            Self::Validation => ("com.amazon.coral.validate#ValidationException", 400),
            Self::ResourceNotFound => ("com.amazonaws.dynamodb.v20120810#ResourceNotFoundException", 400),
            Self::ResourceInUse => ("com.amazonaws.dynamodb.v20120810#ResourceInUseException", 400),
            Self::ConditionalCheckFailed => ("com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException", 400),
            Self::TransactionCanceled => ("com.amazonaws.dynamodb.v20120810#TransactionCanceledException", 400),
            Self::TransactionConflict => ("com.amazonaws.dynamodb.v20120810#TransactionConflictException", 400),
            Self::IdempotentParameterMismatch => {
                ("com.amazonaws.dynamodb.v20120810#IdempotentParameterMismatchException", 400)
            }
            Self::ProvisionedThroughputExceeded => {
                ("com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException", 400)
            }
            Self::Throttling => ("com.amazon.coral.availability#ThrottlingException", 400),
            Self::LimitExceeded => ("com.amazonaws.dynamodb.v20120810#LimitExceededException", 400),
            Self::ExpiredIterator => ("com.amazonaws.dynamodb.v20120810#ExpiredIteratorException", 400),
            Self::TrimmedDataAccess => ("com.amazonaws.dynamodb.v20120810#TrimmedDataAccessException", 400),
            Self::InternalServerError => ("com.amazonaws.dynamodb.v20120810#InternalServerError", 500),
            Self::Serialization => ("com.amazon.coral.service#SerializationException", 400),
            Self::UnknownOperation => ("com.amazon.coral.service#UnknownOperationException", 400),
            Self::MissingAuthenticationToken => ("com.amazon.coral.service#MissingAuthenticationTokenException", 400),
        }
    }
}

/// Why one action of a transaction stood in its way.
#[derive(Clone, Debug, PartialEq)]
pub struct Reason {
    /// `None`, `ConditionalCheckFailed`, `TransactionConflict`, …
    pub code: &'static str,
    /// A sentence, absent for `None`.
    pub message: Option<String>,
    /// The item as it was, where the action asked for it.
    pub item: Option<Item>,
}

impl Reason {
    /// An action that was in nobody's way.
    pub const NONE: Self = Self { code: "None", message: None, item: None };
}

/// A refusal.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Which.
    pub kind: Kind,
    /// The sentence.
    pub message: String,
    /// One for each action of a transaction.
    pub reasons: Vec<Reason>,
    /// The item that did not meet a condition, where the request asked for it.
    pub item: Option<Item>,
}

/// What a call gives.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A refusal of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), reasons: Vec::new(), item: None }
    }

    /// A request that breaks a rule.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Validation, message)
    }

    /// A value among the parameters that breaks a rule.
    pub fn parameter(message: impl Into<String>) -> Self {
        Self::invalid(format!("One or more parameter values were invalid: {}", message.into()))
    }

    /// A condition that did not hold.
    pub fn condition(item: Option<Item>) -> Self {
        Self { item, ..Self::new(Kind::ConditionalCheckFailed, "The conditional request failed") }
    }

    /// A transaction that was not done.
    pub fn canceled(reasons: Vec<Reason>) -> Self {
        let codes: Vec<&str> = reasons.iter().map(|reason| reason.code).collect();
        let message = format!(
            "Transaction cancelled, please refer cancellation reasons for specific reasons [{}]",
            codes.join(", ")
        );
        Self { reasons, ..Self::new(Kind::TransactionCanceled, message) }
    }

    /// The body of the answer.
    pub fn body(&self) -> Json {
        let mut body = Map::new();
        body.insert("__type".into(), self.kind.wire().0.into());
        // Errors that a client is meant to act on spell the word with a capital letter.
        let word = if self.kind == Kind::TransactionCanceled { "Message" } else { "message" };
        body.insert(word.into(), self.message.as_str().into());
        if let Some(item) = &self.item {
            body.insert("Item".into(), wire::item_json(item));
        }
        if !self.reasons.is_empty() {
            let reasons = self.reasons.iter().map(|reason| {
                let mut json = json!({ "Code": reason.code });
                if let Some(message) = &reason.message {
                    json["Message"] = message.as_str().into();
                }
                if let Some(item) = &reason.item {
                    json["Item"] = wire::item_json(item);
                }
                json
            });
            body.insert("CancellationReasons".into(), reasons.collect());
        }
        Json::Object(body)
    }
}
