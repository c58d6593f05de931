//! What the receiver and the tail share: frames on their way, and a few numbers that go back.
//!
//! The receiver fills one buffer while the tail works on another. It hands its buffer over as soon as the tail has
//! nothing to do (so a lone commit does not wait), or when it is full (so a flood costs one hand-over per buffer, not one
//! per frame). Buffers go round; beyond the bound the receiver stops reading, which is how the server feels backpressure,
//! while it goes on answering.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::error::{Error, Fault};
use crate::kinds::postgres::wire::Lsn;

/// Size of a read buffer.
/// LIMIT: large enough that hand-over and system calls vanish beside the work, small beside `memory` (16 MiB at least).
pub(super) const CHUNK: usize = 128 << 10;
/// Bytes that may wait for the tail.
/// LIMIT: four buffers keep both sides busy; a single frame that is larger passes alone.
const WAITING: usize = 4 * CHUNK;

/// Why the stream ended.
pub(super) enum End {
    /// The connection or the server said so.
    Failed(Error),
    /// A frame is larger than one change may be; its first bytes tell the table.
    Oversize { head: Vec<u8>, size: usize },
}

#[derive(Default)]
struct State {
    full: VecDeque<Vec<u8>>,
    waiting: usize,
    spare: Vec<Vec<u8>>,
    hungry: bool,
    holding: bool,
    end: Option<End>,
    ended: bool,
    deserted: bool,
    closed: bool,
    /// Why the watch has ended the stream.
    verdict: Option<(Fault, String)>,
    /// What the server may forget.
    released: Lsn,
    /// What somebody waits for.
    wanted: Lsn,
    /// How far the tail has come.
    reached: Lsn,
}

/// One per connection.
#[derive(Default)]
pub(super) struct Link {
    state: Mutex<State>,
    for_tail: Notify,
    for_receiver: Notify,
    for_closed: Notify,
    for_condemned: Notify,
}

/// What the tail gets when it asks.
pub(super) enum Supply {
    /// Whole frames.
    Frames(Vec<u8>),
    /// Nothing is there now.
    Nothing,
    /// Nothing will come any more.
    End(End),
}

impl Link {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // The receiver's side.

    /// Takes the whole frames at the beginning of `buf` over if the tail wants them or the buffer is `full`; leaves the
    /// rest in another buffer. False if they have to stay where they are.
    pub(super) fn offer(&self, buf: &mut Vec<u8>, whole: usize, full: bool) -> bool {
        let mut state = self.state();
        let room = state.full.is_empty() || state.waiting + whole <= WAITING;
        if !room || !(state.hungry || full) {
            state.holding = true;
            return false;
        }
        let mut next = state.spare.pop().unwrap_or_else(|| Vec::with_capacity(CHUNK));
        next.extend_from_slice(&buf[whole..]);
        buf.truncate(whole);
        state.waiting += whole;
        state.full.push_back(std::mem::replace(buf, next));
        state.holding = false;
        state.hungry = false;
        drop(state);
        self.for_tail.notify_one();
        true
    }

    /// Ends the stream behind the whole frames of `buf`, which pass in any case.
    pub(super) fn finish(&self, mut buf: Vec<u8>, whole: usize, end: End) {
        let mut state = self.state();
        buf.truncate(whole);
        if !buf.is_empty() {
            state.full.push_back(buf);
        }
        state.holding = false;
        state.end = Some(end);
        state.ended = true;
        drop(state);
        self.for_tail.notify_one();
    }

    /// Waits until the tail wants, releases or asks for something.
    pub(super) async fn stirred(&self) {
        self.for_receiver.notified().await;
    }

    /// Whether the tail is gone.
    pub(super) fn deserted(&self) -> bool {
        self.state().deserted
    }

    /// Whether a tail takes what comes, and more will come.
    pub(super) fn is_followed(&self) -> bool {
        let state = self.state();
        !(state.deserted || state.ended || state.closed)
    }

    /// Whether the tail waits for frames and none is on its way.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state();
        state.full.is_empty() && !state.holding
    }

    /// What the server may forget.
    pub(super) fn released(&self) -> Lsn {
        self.state().released
    }

    /// Whether somebody waits for a place that the tail has not reached.
    pub(super) fn is_wanted(&self) -> bool {
        let state = self.state();
        state.wanted > state.reached
    }

    /// The connection is gone.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.for_closed.notify_waiters();
    }

    // The tail's side.

    /// The next frames, if there are any.
    pub(super) fn take(&self) -> Supply {
        let mut state = self.state();
        if let Some(frames) = state.full.pop_front() {
            state.waiting = state.waiting.saturating_sub(frames.len());
            let stir = state.holding;
            drop(state);
            if stir {
                self.for_receiver.notify_one();
            }
            return Supply::Frames(frames);
        }
        if state.ended {
            let gone = || End::Failed(Error::transient("read the PostgreSQL stream: the connection has ended"));
            return Supply::End(state.end.take().unwrap_or_else(gone));
        }
        state.hungry = true;
        let stir = state.holding;
        drop(state);
        if stir {
            self.for_receiver.notify_one();
        }
        Supply::Nothing
    }

    /// Whether frames are there or just about to be handed over.
    pub(super) fn has_more(&self) -> bool {
        let state = self.state();
        !state.full.is_empty() || state.holding || state.ended
    }

    /// Waits until [`Link::take`] may give something.
    pub(super) async fn supplied(&self) {
        self.for_tail.notified().await;
    }

    /// Gives a buffer back.
    pub(super) fn give_back(&self, mut frames: Vec<u8>) {
        // One that a large row blew up is not kept.
        if frames.capacity() <= 2 * CHUNK {
            frames.clear();
            let mut state = self.state();
            if state.spare.len() < WAITING / CHUNK {
                state.spare.push(frames);
            }
        }
    }

    /// The server may forget everything up to here.
    pub(super) fn release(&self, upto: Lsn) {
        let mut state = self.state();
        if state.released < upto {
            state.released = upto;
            drop(state);
            self.for_receiver.notify_one();
        }
    }

    /// The tail has come as far as this.
    pub(super) fn reach(&self, place: Lsn) {
        let mut state = self.state();
        state.reached = state.reached.max(place);
    }

    /// The tail is gone.
    pub(super) fn desert(&self) {
        self.state().deserted = true;
        self.for_receiver.notify_one();
    }

    // The source's side.

    /// Somebody waits until the tail reaches `place`: the server is asked how far it is until then.
    pub(super) fn want(&self, place: Lsn) {
        let mut state = self.state();
        state.wanted = state.wanted.max(place);
        drop(state);
        self.for_receiver.notify_one();
    }

    // The watch's side.

    /// Ends the stream: the connection is closed and the tail says why.
    pub(super) fn condemn(&self, fault: Fault, why: &str) {
        let mut state = self.state();
        state.deserted = true;
        state.verdict.get_or_insert_with(|| (fault, why.to_owned()));
        drop(state);
        self.for_receiver.notify_one();
        self.for_condemned.notify_waiters();
    }

    /// Waits until the watch has ended the stream.
    pub(super) async fn condemned(&self) -> Error {
        loop {
            let mut notified = std::pin::pin!(self.for_condemned.notified());
            notified.as_mut().enable();
            let verdict = self.state().verdict.clone();
            if let Some((fault, why)) = verdict {
                return Error::new(fault, why);
            }
            notified.await;
        }
    }

    /// Waits until the connection is gone.
    pub(super) async fn closed(&self) {
        let mut notified = std::pin::pin!(self.for_closed.notified());
        notified.as_mut().enable();
        let closed = self.state().closed;
        if !closed {
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(supply: Supply) -> Option<Vec<u8>> {
        match supply {
            Supply::Frames(frames) => Some(frames),
            Supply::Nothing => None,
            Supply::End(_) => panic!("the stream has not ended"),
        }
    }

    #[test]
    fn frames_are_kept_back_until_the_tail_is_hungry_and_the_rest_stays_with_the_receiver() {
        let link = Link::default();
        let mut buf = b"wholepart".to_vec();
        assert!(!link.offer(&mut buf, 5, false), "the tail did not ask");
        assert!(link.has_more() && !link.is_idle());
        assert!(frames(link.take()).is_none());
        assert!(link.offer(&mut buf, 5, false));
        assert_eq!(buf, b"part");
        assert_eq!(frames(link.take()).unwrap(), b"whole");
        assert!(!link.has_more() && link.is_idle());
    }

    #[test]
    fn the_receiver_is_stopped_by_a_bound_but_one_large_frame_passes_alone() {
        let link = Link::default();
        let mut buf = vec![0; 3 * WAITING];
        assert!(link.offer(&mut buf, 3 * WAITING, true));
        let mut buf = vec![0; 1];
        assert!(!link.offer(&mut buf, 1, true), "too much is waiting already");
        assert!(frames(link.take()).is_some());
        assert!(link.offer(&mut buf, 1, true));
    }

    #[test]
    fn what_came_before_the_end_is_given_out_before_it() {
        let link = Link::default();
        link.finish(b"lastpart".to_vec(), 4, End::Failed(Error::rejected("because")));
        assert_eq!(frames(link.take()).unwrap(), b"last");
        assert!(matches!(link.take(), Supply::End(End::Failed(error)) if error.to_string() == "because"));
        assert!(matches!(link.take(), Supply::End(End::Failed(_))), "the end is told to whoever asks again");
    }
}
