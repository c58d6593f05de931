//! Messages as a PostgreSQL 15 server sent them, and what must hold for bytes that no server would send.

use proptest::prelude::*;

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Recorded from PostgreSQL 15.18 (version 3, streaming, binary); `true` for what stood within a streamed chunk. The last
/// ones are made by hand after the documentation: version 4's abort, an old row, an origin, a prepare.
fn recorded() -> Vec<(bool, Vec<u8>)> {
    [
        (false, "42 000000000192b9e0 000303c38e2b39e0 000002dc"),
        (false, "59 00004002 7075626c696300 6d6f6f6400"),
        (
            false,
            "52 00004007 7075626c696300 6b7600 64 0004 016b657900 00000011 ffffffff 0076616c756500 00000011 ffffffff
             006578706972657300 000004a0 ffffffff 006d00 00004002 ffffffff",
        ),
        (false, "55 00004007 4e 0004 62 00000002 2f61 75 6e 62 00000002 6f6b"),
        (false, "43 00 000000000192baa8 000000000192bad8 000303c38e2b3a9a"),
        (
            false,
            "55 00004007 4b 0004 62 00000002 2f61 6e 6e 6e 4e 0004 62 00000002 2f62 62 00000001 76 6e 62 00000002 6f6b",
        ),
        (false, "44 00004007 4b 0004 62 00000002 2f62 6e 6e 6e"),
        (false, "54 00000002 00 00004007 0000400e"),
        (false, "4d 01 000000000192fe48 70726500 00000007 636f6e74656e74"),
        (false, "53 000002e5 01"),
        (false, "45"),
        (false, "41 000002e5 000002e6"),
        (true, "59 000002e7 00004002 7075626c696300 6d6f6f6400"),
        (true, "49 000002e7 00004007 4e 0004 62 00000003 2f7431 62 00000002 7a7a 6e 6e"),
        (false, "63 000002e5 00 00000000019a4ab0 00000000019a4ae8 000303c38e2b4950"),
        (false, "41 000002e5 000002e5 0000000000000001 0000000000000002"),
        (false, "55 0000400e 4f 0002 74 00000001 31 74 00000001 79 4e 0002 74 00000001 32 75"),
        (false, "4f 0000000000000001 6e6f646500"),
        (false, "50 00 0000000000000001"),
    ]
    .into_iter()
    .map(|(streamed, hex)| (streamed, bytes(hex)))
    .collect()
}

fn read_through(message: &[u8], streamed: bool) {
    match parse(message, streamed) {
        Ok((_, Message::Relation(relation))) => drop(relation.columns().collect::<Vec<_>>()),
        Ok((_, Message::Truncate(relations))) => drop(relations.oids().collect::<Vec<_>>()),
        _ => {}
    }
}

#[test]
fn recorded_messages_say_what_the_server_meant() {
    let all = recorded();
    let parsed: Vec<_> = all.iter().map(|(streamed, message)| parse(message, *streamed).unwrap()).collect();
    let text = parsed.iter().map(|(xid, message)| format!("{xid} {message:?}\n")).collect::<String>();
    let at = 946_684_800_000_000 + 0x0003_03c3_8e2b_39e0_i64;
    assert!(matches!(parsed[0].1, Message::Begin { at: found, xid: 0x2dc } if found == at), "{text}");
    assert!(matches!(parsed[1].1, Message::Type { oid: 0x4002, schema: "public", name: "mood" }), "{text}");
    let Message::Relation(relation) = parsed[2].1 else { panic!("{text}") };
    assert_eq!((relation.oid, relation.schema, relation.name, relation.identity), (0x4007, "public", "kv", b'd'));
    let columns: Vec<_> = relation.columns().map(|c| (c.key, c.name, c.type_oid, c.typmod)).collect();
    let expected =
        [(true, "key", 17, -1), (false, "value", 17, -1), (false, "expires", 1184, -1), (false, "m", 16386, -1)];
    assert_eq!(columns, expected);
    assert!(
        matches!(parsed[3].1, Message::Update { old: Old::Same, new: Tuple { holes: true, columns: 4, .. }, .. }),
        "{text}"
    );
    assert!(matches!(parsed[4].1, Message::Commit { end: Lsn(0x0192_bad8) }), "{text}");
    assert!(matches!(parsed[5].1, Message::Update { old: Old::Key(_), new: Tuple { holes: false, .. }, .. }), "{text}");
    let Message::Delete { relation: 0x4007, old: Old::Key(old) } = parsed[6].1 else { panic!("{text}") };
    assert_eq!(old.body, &bytes("0004 62 00000002 2f62 6e 6e 6e")[..]);
    let Message::Truncate(relations) = parsed[7].1 else { panic!("{text}") };
    assert_eq!(relations.oids().collect::<Vec<_>>(), [0x4007, 0x400e]);
    assert!(matches!(parsed[8].1, Message::Logical), "{text}");
    assert!(matches!(parsed[9].1, Message::StreamStart { xid: 0x2e5, first: true }), "{text}");
    assert!(matches!(parsed[10].1, Message::StreamStop), "{text}");
    assert!(matches!(parsed[11].1, Message::StreamAbort { xid: 0x2e5, sub: 0x2e6 }), "{text}");
    assert!(matches!(parsed[12], (0x2e7, Message::Type { oid: 0x4002, .. })), "{text}");
    let (0x2e7, Message::Insert { relation: 0x4007, new }) = parsed[13] else { panic!("{text}") };
    assert_eq!(new.body, &bytes("0004 62 00000003 2f7431 62 00000002 7a7a 6e 6e")[..]);
    assert!(matches!(parsed[14].1, Message::StreamCommit { xid: 0x2e5, end: Lsn(0x019a_4ae8), .. }), "{text}");
    assert!(matches!(parsed[15].1, Message::StreamAbort { xid: 0x2e5, sub: 0x2e5 }), "{text}");
    assert!(matches!(parsed[16].1, Message::Update { old: Old::Row(_), .. }), "{text}");
    assert!(matches!((parsed[17].1, parsed[18].1), (Message::Origin, Message::TwoPhase)), "{text}");
}

#[test]
fn a_message_that_lacks_a_byte_or_has_one_too_many_is_corrupt() {
    for (streamed, message) in recorded() {
        let mut longer = message.clone();
        longer.push(0);
        // What follows the header of a two-phase message is never looked at.
        if message[0] != b'P' {
            assert!(parse(&longer, streamed).is_err(), "{longer:?}");
            assert!(parse(&message[..message.len() - 1], streamed).is_err(), "{message:?}");
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(message in proptest::collection::vec(any::<u8>(), 0..120), kind in 0usize..20, streamed: bool) {
        let mut message = message;
        if let Some(first) = message.first_mut() {
            *first = b"BCORYIUDTMSEcAbPKrpX"[kind];
        }
        read_through(&message, streamed);
    }

    #[test]
    fn a_good_message_that_was_damaged_panics_nowhere(
        which in 0usize..100, at in 0usize..1000, byte: u8, cut in 0usize..1000, streamed: bool,
    ) {
        let all = recorded();
        let (_, mut message) = all[which % all.len()].clone();
        let at = at % message.len();
        message[at] = byte;
        read_through(&message, streamed);
        message.truncate(cut % (message.len() + 1));
        read_through(&message, streamed);
    }
}
