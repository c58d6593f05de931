//! What an error of DynamoDB, of its client or of the way to it means for us: the one place where they are translated.
//!
//! The service's messages can hold keys and values ("the parameter cannot be converted to a numeric value: …"), so of them
//! only what is said about a missing permission is passed on: who may not do what where. The same holds for what the client
//! says; of it, only what the operating system has to say about a connection is.

use std::error::Error as StdError;
use std::time::Duration;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};

use crate::error::{Error, Fault};

/// What happened, for who has to tell one from the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The table is not there.
    Missing,
    /// The table is being made, changed or removed.
    InUse,
    /// More is asked for than is allowed at a time.
    Throttled,
    /// Another transaction is at work on one of the items.
    Conflict,
    /// A transaction was given up, for reasons that stand beside it.
    Canceled,
    /// What was compared is not so.
    Otherwise,
    /// Whoever asks may not do that.
    Denied,
    /// The credentials are not valid.
    BadKeys,
    /// The credentials have run out; new ones are taken.
    Expired,
    /// There are no credentials.
    NoKeys,
    /// An item or a request is too large.
    TooLarge,
    /// The account has as many tables, or does as much at once, as it may.
    Limit,
    /// The client was told something that cannot be.
    Unusable,
    /// No answer, or "not now".
    Away,
    /// A request that is wrong in itself.
    Misused,
}

/// Tells what happened.
pub fn cause<E, R>(error: &SdkError<E, R>) -> Cause
where
    SdkError<E, R>: StdError,
    E: ProvideErrorMetadata + 'static,
    R: 'static,
{
    match error {
        SdkError::ServiceError(service) => {
            let meta = service.err();
            of_code(meta.code().unwrap_or_default(), meta.message().unwrap_or_default())
        }
        SdkError::ConstructionFailure(_) if speaks_of(error, "credential") => Cause::NoKeys,
        SdkError::ConstructionFailure(_) => Cause::Unusable,
        SdkError::DispatchFailure(failure) if failure.is_user() => Cause::Unusable,
        SdkError::DispatchFailure(failure) if !failure.is_io() && speaks_of(error, "credentials provider") => {
            Cause::NoKeys
        }
        _ => Cause::Away,
    }
}

/// Tells what a code of the service, or of one of a transaction's reasons, means.
pub fn of_code(code: &str, message: &str) -> Cause {
    match code {
        "ResourceNotFoundException" | "TableNotFoundException" => Cause::Missing,
        "ResourceInUseException" | "TableInUseException" => Cause::InUse,
        "ProvisionedThroughputExceededException"
        | "ProvisionedThroughputExceeded"
        | "ThrottlingException"
        | "ThrottlingError"
        | "Throttling"
        | "RequestLimitExceeded" => Cause::Throttled,
        "TransactionConflictException" | "TransactionConflict" | "TransactionInProgressException" => Cause::Conflict,
        "TransactionCanceledException" => Cause::Canceled,
        "ConditionalCheckFailedException" | "ConditionalCheckFailed" => Cause::Otherwise,
        "AccessDeniedException" | "AccessDenied" | "NotAuthorized" => Cause::Denied,
        "UnrecognizedClientException"
        | "InvalidSignatureException"
        | "InvalidClientTokenId"
        | "MissingAuthenticationTokenException"
        | "MissingAuthenticationToken"
        | "IncompleteSignatureException"
        | "SignatureDoesNotMatch" => Cause::BadKeys,
        "ExpiredTokenException" | "ExpiredToken" | "RequestExpired" => Cause::Expired,
        "LimitExceededException" => Cause::Limit,
        "ItemCollectionSizeLimitExceededException" | "ItemCollectionSizeLimitExceeded" => Cause::TooLarge,
        "ValidationException" | "ValidationError" if message.to_ascii_lowercase().contains("size") => Cause::TooLarge,
        "ValidationException"
        | "ValidationError"
        | "SerializationException"
        | "UnknownOperationException"
        | "IdempotentParameterMismatchException" => Cause::Misused,
        _ => Cause::Away,
    }
}

/// Whether one of the errors behind this one speaks of something. What it says is not shown.
fn speaks_of(error: &(dyn StdError + 'static), what: &str) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.to_string().contains(what) {
            return true;
        }
        next = error.source();
    }
    false
}

/// Translates an error. `attempt` says what was being done.
pub fn fault<E, R>(attempt: &str, error: &SdkError<E, R>) -> Error
where
    SdkError<E, R>: StdError,
    E: ProvideErrorMetadata + 'static,
    R: 'static,
{
    let cause = cause(error);
    let told = of_cause(attempt, cause);
    let said = match (cause, error) {
        // `User: arn:… is not authorized to perform: dynamodb:… on resource: arn:…`
        (Cause::Denied, SdkError::ServiceError(service)) => service.err().message().map(str::to_owned),
        _ => by_system(error),
    };
    match said {
        Some(said) => told.because(said),
        None => told,
    }
}

/// As [`fault`], where nothing but the cause is known.
pub fn of_cause(attempt: &str, cause: Cause) -> Error {
    let (fault, what) = match cause {
        Cause::Missing => (Fault::Config, "the table is not there; look at `table_name`, `region` and the account"),
        Cause::InUse => (Fault::Transient, "the table is being made, changed or removed"),
        Cause::Throttled => (Fault::Throttled(Duration::from_secs(1)), "the table's capacity is used up"),
        Cause::Conflict => (Fault::Transient, "another transaction is at work on the same items"),
        Cause::Canceled => (Fault::Transient, "the transaction was given up"),
        Cause::Otherwise => (Fault::Bug, "a condition does not hold"),
        Cause::Denied => (
            Fault::Config,
            "that is not allowed; `driftless check --print-iam` prints a policy that allows what is needed",
        ),
        Cause::BadKeys => (Fault::Config, "AWS does not know these credentials; look at their source and at the clock"),
        Cause::Expired => (Fault::Transient, "the credentials have run out"),
        Cause::NoKeys => (
            Fault::Config,
            "no credentials were found; set `profile`, AWS_* in the environment, or a role of the machine",
        ),
        Cause::TooLarge => (Fault::Rejected, "an item, or a key of an index, is larger than DynamoDB takes"),
        Cause::Limit => (Fault::Transient, "the account's limit on tables or on changes of them at once is reached"),
        Cause::Unusable => (Fault::Config, "no request can be made of that; look at `region` and `endpoint`"),
        Cause::Away => (Fault::Transient, "DynamoDB does not answer, or not now"),
        Cause::Misused => (Fault::Bug, "the request is not one that DynamoDB takes"),
    };
    Error::new(fault, format!("{attempt}: {what}"))
}

/// What the operating system says of a connection: refused, reset, no route.
fn by_system(error: &(dyn StdError + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>().filter(|io| io.raw_os_error().is_some()) {
            return Some(io.to_string());
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::error::ErrorMetadata;

    use super::*;

    #[derive(Debug)]
    struct Said(ErrorMetadata);

    impl std::fmt::Display for Said {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("said")
        }
    }

    impl StdError for Said {}

    impl ProvideErrorMetadata for Said {
        fn meta(&self) -> &ErrorMetadata {
            &self.0
        }
    }

    fn said(code: &str, message: &str) -> SdkError<Said, ()> {
        SdkError::service_error(Said(ErrorMetadata::builder().code(code).message(message).build()), ())
    }

    #[test]
    fn codes_are_told_apart() {
        use Cause::*;
        for (code, message, wanted, reaction) in [
            ("ResourceNotFoundException", "Requested resource not found", Missing, Fault::Config),
            ("ThrottlingException", "", Throttled, Fault::Throttled(Duration::from_secs(1))),
            ("ProvisionedThroughputExceededException", "", Throttled, Fault::Throttled(Duration::from_secs(1))),
            ("TransactionConflict", "", Conflict, Fault::Transient),
            ("UnrecognizedClientException", "", BadKeys, Fault::Config),
            ("ExpiredTokenException", "", Expired, Fault::Transient),
            ("AccessDeniedException", "", Denied, Fault::Config),
            ("ValidationException", "Item size has exceeded the maximum allowed size", TooLarge, Fault::Rejected),
            ("ValidationException", "One or more parameter values were invalid", Misused, Fault::Bug),
            ("InternalServerError", "", Away, Fault::Transient),
            ("SomethingNew", "", Away, Fault::Transient),
        ] {
            let error = said(code, message);
            assert_eq!(cause(&error), wanted, "{code}");
            assert_eq!(fault("do something", &error).fault(), reaction, "{code}");
        }
    }

    #[test]
    fn only_what_is_said_of_permissions_is_shown() {
        let denied = said("AccessDeniedException", "User: arn:x is not authorized to perform: dynamodb:Scan");
        assert!(fault("scan", &denied).to_string().ends_with("perform: dynamodb:Scan"));
        for code in ["ValidationException", "InternalServerError", "ResourceNotFoundException"] {
            let told = fault("scan", &said(code, "cannot be converted to a numeric value: planted")).to_string();
            assert!(!told.contains("planted"), "{told}");
        }
    }

    #[test]
    fn missing_credentials_are_told_from_a_place_that_is_away() {
        let none = SdkError::<Said, ()>::construction_failure("no credentials in chain");
        assert_eq!(cause(&none), Cause::NoKeys);
        assert_eq!(cause(&SdkError::<Said, ()>::timeout_error("planted")), Cause::Away);
    }
}
