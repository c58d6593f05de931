//! What must not be told, and whether a text tells it.
//!
//! Tests plant one word ([`PLANTED`]) in values, keys, passwords and connection strings, and look for it, in every form
//! that a log could give it, and for connection strings whatever they hold. Where logs are kept (`scale::kept_logs`),
//! `scripts/secrets.sh` looks for the same in everything that a whole run of the tests has left behind; for that the
//! library is heard too, and every server is made to log a word ([`CANARY`]) that the search must find.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::Mutex;

use super::scale::{self, PLANTED};

/// A planted word that may be told: what shows it shows that the search would find the others.
pub const CANARY: &str = "planted-canary";

/// What a message shows as an example.
const EXAMPLE: &str = "postgresql://user@host/database";

/// The lines of a text that tell a secret.
pub fn leaks(text: &str) -> Vec<String> {
    let text = text.replace(CANARY, "").replace(EXAMPLE, "");
    text.lines().filter(|line| tells(line)).map(str::to_owned).collect()
}

fn tells(line: &str) -> bool {
    let folded = line.to_ascii_lowercase();
    let hex: String = PLANTED.bytes().map(|byte| format!("{byte:02x}")).collect();
    let numbers: Vec<String> = PLANTED.bytes().map(|byte| byte.to_string()).collect();
    let unspaced = line.replace(", ", ",");
    // Base64 has three spellings of a word, by where it begins; the letters at its edges depend on what surrounds it.
    let base64 = ["cGxhbnRlZC", "BsYW50ZWQt", "wbGFudGVkL"];
    folded.contains(PLANTED)
        || folded.contains(&hex)
        || unspaced.contains(&numbers.join(","))
        || base64.iter().any(|spelling| line.contains(spelling))
        || ["postgres://", "postgresql://"].iter().any(|scheme| is_followed(&folded, scheme))
        || line.contains("PRIVATE KEY")
        || is_connection_string(&folded)
}

/// Whether anything but a space or the end comes behind `scheme`, whose name alone may be told.
fn is_followed(line: &str, scheme: &str) -> bool {
    line.split(scheme).skip(1).any(|rest| rest.starts_with(|c: char| !c.is_whitespace()))
}

/// At least two neighbouring `key=value` pairs as libpq knows them, one of which says where or who.
fn is_connection_string(line: &str) -> bool {
    let keys = ["host", "hostaddr", "port", "user", "dbname", "password", "passfile", "sslmode"];
    let words: Vec<Option<&str>> = line
        .split_whitespace()
        .map(|word| word.split_once('=').map(|(key, _)| key.trim_start_matches(['"', '\'', '`', '('])))
        .collect();
    words.windows(2).any(|pair| match pair {
        [Some(first), Some(second)] => keys[..6].contains(first) && keys.contains(second),
        _ => false,
    })
}

/// A server's log without the entries, of one or more lines, that a test's own psql caused.
pub fn of_driftless(server_log: &str) -> String {
    let (mut text, mut ours) = (String::new(), true);
    for line in server_log.lines() {
        if line.starts_with("20") {
            ours = !line.contains("] [psql] ");
        }
        if ours {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// Where logs are kept: hears what the library says in this process, with everything that it can say.
pub fn hear_the_library() {
    if let Some(kept) = scale::kept_logs() {
        let path = kept.join(format!("driftless-library-{}.log", std::process::id()));
        let file = appended(&path);
        driftless::telemetry::start_logs(3, driftless::telemetry::Format::Text, false, Mutex::new(file));
    }
}

/// A file that grows.
pub fn appended(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

#[test]
fn each_form_of_a_secret_is_found_and_what_may_be_told_is_not() {
    for told in [
        "value planted-1",
        "Planted-Password",
        r"(key)=(\x2f706c616e7465642d31)",
        "706C616E7465642D",
        "[112, 108, 97, 110, 116, 101, 100, 45, 49]",
        "[47,112,108,97,110,116,101,100,45]",
        "eyJzIjoicGxhbnRlZC0xIn0=",
        "L3BsYW50ZWQtMQ==",
        "eHhwbGFudGVkLTE=",
        "connect to postgresql://u@h/d",
        "POSTGRES://h",
        "of host=db-1 port=5432",
        "(user=teleport dbname=teleport)",
        "-----BEGIN PRIVATE KEY-----",
        "planted-canary beside planted-1",
    ] {
        assert_eq!(leaks(told).len(), 1, "{told}");
    }
    for fine in [
        "planted-canary",
        "stream=planted-canary epoch=1",
        "connect to PostgreSQL at 127.0.0.1:5432: check the user and the password",
        "sslmode=verify-full, with sslrootcert=<file> or sslrootcert=system",
        "it must be a PostgreSQL connection string such as postgresql://user@host/database",
        "it is neither a postgresql:// URL nor key=value pairs",
        "add target_session_attrs=read-write host=",
        "lane=0 number=3 changes=2 upto=sqlite/7/1 @12",
    ] {
        assert_eq!(leaks(fine), Vec::<String>::new());
    }
}

#[test]
fn what_others_made_a_server_log_is_left_out_with_all_its_lines() {
    let log = "2026-01-01 10:00:00.000 UTC [1] LOG:  starting\n\
               2026-01-01 10:00:01.000 UTC [2] [psql] ERROR:  no\n\
               2026-01-01 10:00:01.000 UTC [2] [psql] STATEMENT:  select\n\tplanted-1\n\
               2026-01-01 10:00:02.000 UTC [3] [driftless s] ERROR:  duplicate\n\tplanted-2\n";
    let ours = of_driftless(log);
    assert!(!ours.contains("planted-1") && ours.contains("starting"), "{ours}");
    assert_eq!(leaks(&ours), ["\tplanted-2"]);
}
