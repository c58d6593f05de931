//! The receiver against a server that is made of bytes.

use tokio::io::DuplexStream;

use super::super::link::Supply;
use super::*;

fn plan(version: u32) -> Plan {
    Plan {
        slot: "driftless_a".into(),
        publication: "o'\"x".into(),
        start: Lsn(0x1_0000_00FF),
        version,
        binary: true,
        timeout: Duration::from_secs(2),
        max_frame: 1 << 20,
    }
}

#[test]
fn the_statement_asks_for_the_highest_version_and_quotes_names() {
    let statement = plan(150_020).statement();
    let expected = "START_REPLICATION SLOT \"driftless_a\" LOGICAL 1/FF (proto_version '3', \
                    publication_names '\"o''\"\"x\"', streaming 'on', binary 'true')";
    assert_eq!(statement, expected);
    assert!(plan(130_000).statement().ends_with("(proto_version '1', publication_names '\"o''\"\"x\"')"));
    assert!(plan(140_000).statement().contains("proto_version '2'"));
    assert!(plan(170_002).statement().contains("proto_version '4'"));
}

#[test]
fn the_server_hears_from_us_well_before_its_patience_ends() {
    assert!(plan(150_000).interval() < Duration::from_millis(700));
    let unlimited = Plan { timeout: Duration::ZERO, ..plan(150_000) };
    assert_eq!((unlimited.interval(), unlimited.patience()), (Duration::from_secs(10), Duration::from_secs(120)));
}

#[test]
fn a_lost_slot_is_a_gap_and_a_busy_one_is_not() {
    let fault =
        |code: &str, message: &str| refused(&ServerError { code: code.into(), message: message.into() }).fault();
    assert_eq!(fault("42704", "replication slot \"x\" does not exist"), Fault::PositionLost);
    assert_eq!(fault("55000", "can no longer get changes from replication slot \"x\""), Fault::PositionLost);
    assert_eq!(fault("58P01", "requested WAL segment 0001 has already been removed"), Fault::PositionLost);
    assert_eq!(fault("42704", "publication \"x\" does not exist"), Fault::Config);
    assert_eq!(fault("55006", "replication slot \"x\" is active for PID 7"), Fault::Transient);
    assert_eq!(fault("57P01", "terminating connection due to administrator command"), Fault::Transient);
}

/// Longer than any machine makes a timely thing wait, shorter than the server's patience.
const LATE: Duration = Duration::from_secs(20);

/// A connection that has just begun its copy, and the server's end of it.
async fn begun(timeout: Duration) -> (DuplexStream, Arc<Link>) {
    let (ours, mut server) = tokio::io::duplex(1 << 20);
    server.write_all(b"W\0\0\0\x07\0\0\0").await.unwrap();
    let link = start(ours, b"", Plan { timeout, ..plan(150_000) }).await.unwrap();
    let query = message(&mut server).await;
    assert!(query.starts_with(b"Q"), "the statement comes first");
    (server, link)
}

/// The next message that reaches the server.
async fn message(server: &mut DuplexStream) -> Vec<u8> {
    let mut message = vec![0; frames::HEADER];
    server.read_exact(&mut message).await.unwrap();
    let length = frames::length(&message).unwrap().unwrap();
    message.resize(length, 0);
    server.read_exact(&mut message[frames::HEADER..]).await.unwrap();
    message
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len() + 4).unwrap().to_be_bytes();
    [&b"d"[..], &length, payload].concat()
}

fn keepalive(end: u64, reply: bool) -> Vec<u8> {
    frame(&[&b"k"[..], &end.to_be_bytes(), &[0; 8], &[u8::from(reply)]].concat())
}

fn data(start: u64, bytes: &[u8]) -> Vec<u8> {
    frame(&[&b"w"[..], &start.to_be_bytes(), &[0; 16], bytes].concat())
}

async fn end(link: &Link) -> End {
    loop {
        match link.take() {
            Supply::End(end) => return end,
            Supply::Frames(_) => {}
            Supply::Nothing => link.supplied().await,
        }
    }
}

#[tokio::test]
async fn a_question_is_answered_at_once_though_nobody_takes_frames_and_says_only_what_was_released() {
    let (mut server, link) = begun(Duration::from_secs(60)).await;
    link.release(Lsn(0x10));
    server.write_all(&data(0x70, b"change")).await.unwrap();
    server.write_all(&keepalive(0x2_0000_0000, true)).await.unwrap();
    let asked = Instant::now();
    let status = loop {
        let status = message(&mut server).await;
        if status[6..14] == 0x2_0000_0000u64.to_be_bytes() {
            break status;
        }
    };
    assert!(asked.elapsed() < LATE, "{:?}", asked.elapsed());
    assert_eq!(status[14..22], 0x10u64.to_be_bytes(), "durable is what was released");
}

#[tokio::test]
async fn the_server_is_asked_when_somebody_waits_and_when_nothing_happens() {
    let (mut server, link) = begun(Duration::from_secs(60)).await;
    let asks = |status: &[u8]| status[38] == 1;
    while !asks(&message(&mut server).await) {}
    link.want(Lsn(0x99));
    let wanted = Instant::now();
    for _ in 0..20 {
        while !asks(&message(&mut server).await) {}
    }
    assert!(wanted.elapsed() < 10 * ASK_IDLE, "{:?}", wanted.elapsed());
    link.reach(Lsn(0x99));
    while !asks(&message(&mut server).await) {}
    let reached = Instant::now();
    while !asks(&message(&mut server).await) {}
    assert!(reached.elapsed() >= ASK_IDLE - Duration::from_millis(10), "nobody waits any more");
}

#[tokio::test]
async fn a_server_that_falls_silent_is_given_up_after_twice_its_own_patience() {
    let (mut server, link) = begun(Duration::from_millis(600)).await;
    let silent = Instant::now();
    let End::Failed(error) = end(&link).await else { panic!("another end") };
    assert_eq!(error.fault(), Fault::Transient);
    assert!(error.to_string().contains("silent for 1.2 s"), "{error}");
    assert!(silent.elapsed() >= Duration::from_millis(1200) && silent.elapsed() < LATE, "{:?}", silent.elapsed());
    // It was asked for a sign of life all the time.
    let mut questions = 0;
    let mut sent = Vec::new();
    server.read_to_end(&mut sent).await.unwrap();
    for status in sent.chunks(39) {
        questions += u32::from(status[38] == 1);
    }
    assert!(questions >= 2, "{questions}");
}

#[tokio::test]
async fn an_error_an_end_and_nonsense_within_the_copy_come_behind_what_was_sent_before() {
    let error = b"E\0\0\0\x18SFATAL\0C57P01\0Mbye\0\0";
    let ends: [(&[u8], Fault, &str); 4] = [
        (error, Fault::Transient, "bye (SQLSTATE 57P01)"),
        (b"c\0\0\0\x04", Fault::Transient, "shuts down"),
        (b"d\0\0\0\x05?", Fault::Corrupt, "broken frame"),
        (b"d\0\0\0\x00", Fault::Corrupt, "impossible length"),
    ];
    for (bytes, fault, text) in ends {
        let (mut server, link) = begun(Duration::from_secs(60)).await;
        server.write_all(&[&data(1, b"change"), bytes].concat()).await.unwrap();
        let mut taken = 0;
        let failed = loop {
            match link.take() {
                Supply::End(End::Failed(error)) => break error,
                Supply::End(End::Oversize { .. }) => panic!("nothing is large"),
                Supply::Frames(frames) => taken += frames.len(),
                Supply::Nothing => link.supplied().await,
            }
        };
        assert_eq!((failed.fault(), taken), (fault, data(1, b"change").len()), "{failed}");
        assert!(failed.to_string().contains(text), "{failed}");
        link.closed().await;
    }
}

#[tokio::test]
async fn a_tail_that_goes_leaves_in_order_and_reports_what_was_released_last() {
    let (mut server, link) = begun(Duration::from_secs(60)).await;
    link.release(Lsn(0x42));
    link.desert();
    let mut last = Vec::new();
    let done = loop {
        let bytes = message(&mut server).await;
        if bytes[0] != b'd' {
            break bytes;
        }
        last = bytes;
    };
    assert_eq!(done, frames::COPY_DONE);
    assert_eq!(last[14..22], 0x42u64.to_be_bytes());
    // What the server still had to say is read away until it ends the copy itself.
    let rest = [&data(1, b"late")[..], b"c\0\0\0\x04"].concat();
    server.write_all(&rest).await.unwrap();
    assert!(message(&mut server).await.starts_with(b"X"));
    drop(server);
    link.closed().await;
}

#[tokio::test]
async fn a_change_that_is_too_large_is_refused_before_it_is_read() {
    let (mut server, link) = begun(Duration::from_secs(60)).await;
    let size = (1u32 << 20) + 500;
    let head = [&b"d"[..], &size.to_be_bytes(), b"w", &[0; 24], b"I\0\0\0\x07N and more of it"].concat();
    server.write_all(&head).await.unwrap();
    let End::Oversize { head, size: said } = end(&link).await else { panic!("another end") };
    assert_eq!((pgoutput::table_of(&head, false), said), (Some(7), size as usize + 1));
}
