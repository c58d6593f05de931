//! What an error of etcd, of its client or of the way to it means for us: the one place where they are translated.
//!
//! The server's own messages are fixed sentences without keys or values, and only those are passed on. Anything else that a
//! client library says may hold what was sent, so it is never shown, with one exception: what TLS says about a certificate.

use std::error::Error as StdError;
use std::time::Duration;

use etcd_client::Error as ClientError;
use tonic::{Code, Status};

use crate::error::{Error, Fault};

/// What happened, for who has to tell one from the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The revision that was asked for is compacted.
    Compacted,
    /// The revision that was asked for has not happened.
    Future,
    /// More operations than the server takes in one transaction.
    TooManyOps,
    /// A request is larger than the server, or the way to it, takes.
    RequestTooLarge,
    /// An answer is larger than we take.
    AnswerTooLarge,
    /// The server's quota is used up: it takes no writes.
    NoSpace,
    /// The server is overloaded.
    Busy,
    /// A user was given to a server that knows none.
    AuthOff,
    /// No user was given to a server that asks for one.
    NoUser,
    /// User or password is wrong.
    BadPassword,
    /// What a log-in gave is not valid any more.
    TokenExpired,
    /// The user may not do that.
    Denied,
    /// One side does not believe the other's certificate.
    Certificate,
    /// The lease is not there.
    NoLease,
    /// The cluster says that its data is damaged.
    Damaged,
    /// No answer, or "not now".
    Away,
    /// A request that is wrong in itself.
    Misused,
}

/// Tells what happened.
pub fn cause(error: &ClientError) -> Cause {
    match error {
        ClientError::GRpcStatus(status) => of_status(status),
        ClientError::TransportError(error) if tls(error).is_some() => Cause::Certificate,
        ClientError::TransportError(_) | ClientError::IoError(_) | ClientError::WatchError(_) => Cause::Away,
        ClientError::LeaseKeepAliveError(_) | ClientError::EndpointError(_) | ClientError::Internal(_) => Cause::Away,
        _ => Cause::Misused,
    }
}

fn of_status(status: &Status) -> Cause {
    let said = status.message();
    let says = |text: &str| said.contains(text);
    if status.source().is_some_and(|source| tls(source).is_some()) {
        return Cause::Certificate;
    }
    match status.code() {
        Code::OutOfRange if says("required revision has been compacted") => Cause::Compacted,
        Code::OutOfRange if says("future revision") => Cause::Future,
        Code::OutOfRange | Code::ResourceExhausted if says("decoded message length too large") => Cause::AnswerTooLarge,
        Code::InvalidArgument if says("too many operations") => Cause::TooManyOps,
        Code::InvalidArgument if says("request is too large") => Cause::RequestTooLarge,
        Code::ResourceExhausted if says("database space exceeded") => Cause::NoSpace,
        Code::ResourceExhausted if says("too many requests") => Cause::Busy,
        Code::ResourceExhausted | Code::OutOfRange if says("message") => Cause::RequestTooLarge,
        Code::ResourceExhausted => Cause::Busy,
        Code::FailedPrecondition if says("authentication is not enabled") => Cause::AuthOff,
        Code::InvalidArgument if says("user name is empty") => Cause::NoUser,
        Code::InvalidArgument if says("authentication failed") => Cause::BadPassword,
        Code::InvalidArgument if says("revision of auth store is old") => Cause::TokenExpired,
        Code::FailedPrecondition if says("user name not found") => Cause::BadPassword,
        Code::Unauthenticated => Cause::TokenExpired,
        Code::PermissionDenied => Cause::Denied,
        Code::NotFound if says("lease not found") => Cause::NoLease,
        Code::DataLoss => Cause::Damaged,
        Code::InvalidArgument | Code::Unimplemented => Cause::Misused,
        _ => Cause::Away,
    }
}

/// What TLS has against the other side, if that is what is behind an error. Its words name no secret.
fn tls(error: &(dyn StdError + 'static)) -> Option<String> {
    /// What a connection says of the other side's last word, when it is only found by reading on: as text alone.
    const ALERT: &str = "received fatal alert: ";
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<std::io::Error>();
        let inner = io.and_then(std::io::Error::get_ref);
        let found = error.downcast_ref::<rustls::Error>();
        if let Some(found) = found.or_else(|| inner?.downcast_ref::<rustls::Error>()) {
            let judged = matches!(
                found,
                rustls::Error::InvalidCertificate(_)
                    | rustls::Error::NoCertificatesPresented
                    | rustls::Error::AlertReceived(_)
                    | rustls::Error::PeerIncompatible(_)
            );
            return judged.then(|| found.to_string());
        }
        if let Some(said) = inner.map(ToString::to_string).filter(|said| said.starts_with(ALERT)) {
            return Some(said);
        }
        next = error.source();
    }
    None
}

/// Translates an error. `attempt` says what was being done.
pub fn fault(attempt: &str, error: &ClientError) -> Error {
    let cause = cause(error);
    let (fault, what) = match cause {
        Cause::Compacted => (Fault::PositionLost, "the cluster has compacted the revision away"),
        Cause::Future => (Fault::PositionLost, "the cluster has not come to that revision, so it was set back"),
        Cause::TooManyOps => (Fault::Rejected, "the cluster takes fewer operations in one transaction (--max-txn-ops)"),
        Cause::RequestTooLarge => {
            (Fault::Rejected, "the cluster does not take a request of that size (--max-request-bytes)")
        }
        Cause::AnswerTooLarge => (Fault::Rejected, "one value is larger than 32 MiB"),
        Cause::NoSpace => (
            Fault::Transient,
            "the cluster's quota is used up, so it takes no writes: compact and defragment it, or raise \
             --quota-backend-bytes, then `etcdctl alarm disarm`",
        ),
        Cause::Busy => (Fault::Throttled(Duration::from_millis(200)), "the cluster is overloaded"),
        Cause::AuthOff => (Fault::Config, "the cluster knows no users; leave out username and password_file"),
        Cause::NoUser => (Fault::Config, "the cluster asks for a user; set username and password_file"),
        Cause::BadPassword => (Fault::Config, "the cluster refuses username or password"),
        Cause::TokenExpired => (Fault::Transient, "the log-in is not valid any more"),
        Cause::Denied => {
            (Fault::Config, "the user may not do that; grant the role the prefix (and, to write, /driftless/ too)")
        }
        Cause::Certificate => {
            (Fault::Config, "a certificate is refused; see tls_ca_file, tls_cert_file and tls_key_file")
        }
        Cause::NoLease => (Fault::Transient, "the lease is gone"),
        Cause::Damaged => (Fault::Corrupt, "the cluster says that its data is damaged"),
        Cause::Away => (Fault::Transient, "the cluster does not answer, or not now"),
        Cause::Misused => (Fault::Bug, "the request is not one that etcd knows"),
    };
    let told = Error::new(fault, format!("{attempt}: {what}"));
    match told_by(error) {
        Some(said) => told.because(said),
        None => told,
    }
}

/// As much of the error's own text as may be shown.
fn told_by(error: &ClientError) -> Option<String> {
    let source: &(dyn StdError + 'static) = match error {
        ClientError::GRpcStatus(status) if status.message().starts_with("etcdserver: ") => {
            return Some(status.message().to_owned());
        }
        ClientError::GRpcStatus(status) => status,
        ClientError::TransportError(error) => error,
        _ => return None,
    };
    if let Some(said) = tls(source) {
        return Some(said);
    }
    // What the operating system says of a connection: refused, reset, no route.
    let mut next = Some(source);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>().filter(|io| io.raw_os_error().is_some()) {
            return Some(io.to_string());
        }
        next = error.source();
    }
    None
}

/// Nobody answered within the time.
pub fn silent(attempt: &str, waited: Duration) -> Error {
    Error::transient(format!("{attempt}: no answer within {} ms", waited.as_millis()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: Code, text: &str) -> ClientError {
        ClientError::GRpcStatus(Status::new(code, text))
    }

    #[test]
    fn the_servers_sentences_are_told_apart() {
        use Cause::*;
        for (code, text, wanted, reaction) in [
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
                Compacted,
                Fault::PositionLost,
            ),
            (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision", Future, Fault::PositionLost),
            (Code::InvalidArgument, "etcdserver: too many operations in txn request", TooManyOps, Fault::Rejected),
            (Code::InvalidArgument, "etcdserver: request is too large", RequestTooLarge, Fault::Rejected),
            (
                Code::ResourceExhausted,
                "grpc: received message larger than max (3 vs. 2)",
                RequestTooLarge,
                Fault::Rejected,
            ),
            (
                Code::OutOfRange,
                "Error, decoded message length too large: found 9 bytes, the limit is: 4 bytes",
                AnswerTooLarge,
                Fault::Rejected,
            ),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", NoSpace, Fault::Transient),
            (Code::InvalidArgument, "etcdserver: user name is empty", NoUser, Fault::Config),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                BadPassword,
                Fault::Config,
            ),
            (Code::FailedPrecondition, "etcdserver: authentication is not enabled", AuthOff, Fault::Config),
            (Code::Unauthenticated, "etcdserver: invalid auth token", TokenExpired, Fault::Transient),
            (Code::InvalidArgument, "etcdserver: revision of auth store is old", TokenExpired, Fault::Transient),
            (Code::PermissionDenied, "etcdserver: permission denied", Denied, Fault::Config),
            (Code::NotFound, "etcdserver: requested lease not found", NoLease, Fault::Transient),
            (Code::Unavailable, "etcdserver: no leader", Away, Fault::Transient),
            (Code::Unavailable, "etcdserver: leader changed", Away, Fault::Transient),
            (Code::Unknown, "etcdserver: something new", Away, Fault::Transient),
            (Code::DataLoss, "etcdserver: corrupt cluster", Damaged, Fault::Corrupt),
        ] {
            let error = status(code, text);
            assert_eq!(cause(&error), wanted, "{text}");
            assert_eq!(fault("do something", &error).fault(), reaction, "{text}");
        }
        let busy = status(Code::ResourceExhausted, "etcdserver: too many requests");
        assert!(matches!(fault("do something", &busy).fault(), Fault::Throttled(_)));
    }

    #[test]
    fn only_sentences_that_cannot_hold_a_secret_are_shown() {
        let said = fault("scan", &status(Code::PermissionDenied, "etcdserver: permission denied")).to_string();
        assert!(
            said.starts_with("scan: the user may not") && said.ends_with("etcdserver: permission denied"),
            "{said}"
        );
        for error in [
            status(Code::Internal, "frame with planted-1"),
            ClientError::InvalidArgs("planted-1".into()),
            ClientError::WatchError("planted-1".into()),
        ] {
            assert!(!fault("scan", &error).to_string().contains("planted"));
        }
    }

    #[test]
    fn what_tls_says_is_found_however_deep_it_lies() {
        let refused = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let wrapped = std::io::Error::new(std::io::ErrorKind::InvalidData, refused);
        let status = Status::from_error(Box::new(wrapped));
        let error = ClientError::GRpcStatus(status);
        assert_eq!(cause(&error), Cause::Certificate);
        let said = fault("connect", &error);
        assert_eq!(said.fault(), Fault::Config);
        assert!(said.to_string().contains("UnknownIssuer"), "{said}");
        let late = std::io::Error::new(std::io::ErrorKind::InvalidData, "received fatal alert: CertificateRequired");
        let late = ClientError::GRpcStatus(Status::from_error(Box::new(late)));
        assert_eq!(cause(&late), Cause::Certificate);
        assert!(fault("connect", &late).to_string().contains("CertificateRequired"));
    }
}
