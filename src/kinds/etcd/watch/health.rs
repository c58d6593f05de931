//! Whether a watch is still one: tells a quiet cluster from a connection that has gone silent. Pure: instants come in.
//!
//! A quiet watch says nothing by itself for ten minutes. So it is asked for a sign of life after a few seconds, and whoever
//! asks for the newest revision says here what must come out of the watch. A watch that gives no sign, or stands still
//! before what must come, is given up for another one at another peer.

use tokio::time::Instant;

use std::time::Duration;

/// How long a watch may be silent before it is asked.
const QUIET: Duration = Duration::from_secs(3);
/// LIMIT: how often a watch is asked when something is known to be missing. The server answers from memory.
const AGAIN: Duration = Duration::from_millis(100);
/// LIMIT: how long a question, or what is known to be missing, may stay unanswered: an election takes a second or two.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Say {
    /// Nothing before this instant.
    Wait(Instant),
    /// Ask the watch how far it is, and the cluster for its newest revision.
    Ask,
    /// Make another watch: this one is none any more.
    GiveUp(&'static str),
}

/// What is known of one watch.
#[derive(Debug)]
pub struct Health {
    /// Whether the server answers when a quiet watch is asked.
    answers: bool,
    /// Whether every revision of the cluster is one that the watch comes to, by an event or by the server's word.
    reaches: bool,
    heard: Instant,
    asked: Option<Instant>,
    /// The first question since something was heard.
    open: Option<Instant>,
    place: i64,
    wanted: i64,
    /// Since when the place lies before what is wanted without moving.
    behind: Option<Instant>,
}

impl Health {
    /// Of a watch that was just made behind `place`.
    pub fn new(now: Instant, place: i64, answers: bool, reaches: bool) -> Self {
        Self { answers, reaches, heard: now, asked: None, open: None, place, wanted: place, behind: None }
    }

    /// The watch said something, and is at this place now.
    pub fn heard(&mut self, now: Instant, place: i64) {
        (self.heard, self.open) = (now, None);
        if place > self.place {
            self.place = place;
            self.behind = (self.wanted > place).then_some(now);
        }
    }

    /// The cluster has this revision, so it must come out of the watch, or something newer.
    pub fn want(&mut self, now: Instant, revision: i64) {
        self.wanted = self.wanted.max(revision);
        if self.wanted > self.place && self.behind.is_none() {
            self.behind = Some(now);
        }
    }

    /// The watch was asked.
    pub fn asked(&mut self, now: Instant) {
        self.asked = Some(now);
        self.open.get_or_insert(now);
    }

    /// Nobody listened until now: silence before this says nothing.
    pub fn resume(&mut self, now: Instant) {
        (self.heard, self.open) = (now, None);
        self.behind = self.behind.map(|_| now);
    }

    /// Whether something is known to be missing.
    pub fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// What is to be done.
    pub fn say(&self, now: Instant) -> Say {
        if self.answers && self.open.is_some_and(|open| now >= open + PATIENCE) {
            return Say::GiveUp("it does not answer");
        }
        if self.reaches && self.behind.is_some_and(|since| now >= since + PATIENCE) {
            return Say::GiveUp("it stands still while the cluster goes on");
        }
        let hurry = self.behind.filter(|_| self.reaches);
        let pause = if hurry.is_some() { AGAIN } else { QUIET };
        let quiet = hurry.unwrap_or(self.heard + QUIET);
        let due = self.asked.map_or(quiet, |asked| quiet.max(asked + pause));
        if due <= now { Say::Ask } else { Say::Wait(due) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(begin: Instant, millis: u64) -> Instant {
        begin + Duration::from_millis(millis)
    }

    #[test]
    fn a_quiet_watch_is_asked_and_lives_while_it_answers() {
        let begin = Instant::now();
        let mut health = Health::new(begin, 5, true, true);
        assert_eq!(health.say(begin), Say::Wait(begin + QUIET));
        let mut now = begin;
        for _ in 0..100 {
            now += QUIET;
            assert_eq!(health.say(now), Say::Ask);
            health.asked(now);
            assert!(matches!(health.say(now), Say::Wait(_)));
            now = after(now, 5);
            health.heard(now, 5);
        }
    }

    #[test]
    fn a_watch_that_does_not_answer_is_given_up() {
        let begin = Instant::now();
        let mut health = Health::new(begin, 5, true, true);
        let asked = begin + QUIET;
        health.asked(asked);
        let again = asked + QUIET;
        assert_eq!(health.say(again), Say::Ask);
        health.asked(again);
        assert!(matches!(health.say(asked + PATIENCE), Say::GiveUp(_)), "from the first question on");
        let mut old = Health::new(begin, 5, false, true);
        old.asked(asked);
        assert!(!matches!(old.say(asked + PATIENCE), Say::GiveUp(_)), "such a server need not answer");
    }

    #[test]
    fn a_watch_that_stands_still_before_what_must_come_is_given_up_and_one_that_moves_is_not() {
        let begin = Instant::now();
        let mut health = Health::new(begin, 5, false, true);
        health.want(begin, 5);
        assert!(!health.is_behind());
        health.want(begin, 9);
        assert_eq!(health.say(begin), Say::Ask, "at once");
        health.asked(begin);
        assert_eq!(health.say(begin), Say::Wait(begin + AGAIN));
        health.heard(after(begin, 9_000), 7);
        assert!(health.is_behind());
        assert!(!matches!(health.say(begin + PATIENCE), Say::GiveUp(_)));
        assert!(matches!(health.say(after(begin, 9_000) + PATIENCE), Say::GiveUp(_)));
        health.heard(after(begin, 10_000), 9);
        assert!(!health.is_behind());
        // A sign of life alone does not bring what is missing.
        health.want(after(begin, 10_000), 10);
        health.heard(after(begin, 19_000), 9);
        assert!(matches!(health.say(after(begin, 20_000)), Say::GiveUp(_)));
    }

    #[test]
    fn a_watch_that_need_not_come_to_a_revision_is_not_given_up_before_it() {
        let begin = Instant::now();
        let mut health = Health::new(begin, 5, true, false);
        health.want(begin, 9);
        health.heard(after(begin, 9_000), 5);
        assert!(matches!(health.say(begin + PATIENCE), Say::Wait(_)));
    }

    #[test]
    fn silence_that_nobody_listened_to_says_nothing() {
        let begin = Instant::now();
        let mut health = Health::new(begin, 5, true, true);
        health.want(begin, 9);
        health.asked(begin);
        let late = begin + 3 * PATIENCE;
        health.resume(late);
        assert!(!matches!(health.say(late), Say::GiveUp(_)));
    }
}
