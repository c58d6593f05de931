//! One thread, many tasks, and a clock that only moves when it is told to.
//!
//! The machine polls one task at a time, chosen by chance among those that were woken, and lets virtual time jump to the
//! next alarm when nobody was. So every order of events that real threads could produce can come up, and the same seed
//! brings the same one again. A process is a set of tasks: it can be stopped for a while (SIGSTOP) or killed between any
//! two polls (kill -9), which drops its futures where they stand.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use driftless::engine::clock::Clock;
use driftless::engine::pipeline::Host;
use driftless::engine::runner::{Runner, Turn};
use driftless::error::{Error, Result};
use driftless::model::Micros;
use driftless::source::Fut;

use crate::rng::Rng;

/// Names a process.
pub type Pid = u32;

type Task = Pin<Box<dyn Future<Output = ()>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[derive(Default)]
struct Alarms {
    now: Duration,
    set: BTreeMap<(Duration, u64), Waker>,
    next: u64,
}

/// Virtual time.
#[derive(Clone, Default)]
pub struct VirtualClock(Arc<Mutex<Alarms>>);

impl VirtualClock {
    /// Moves time forward and wakes whose alarm is due.
    pub fn advance(&self, by: Duration) {
        let mut alarms = lock(&self.0);
        alarms.now += by;
        let later = (alarms.now + Duration::from_nanos(1), 0);
        let kept = alarms.set.split_off(&later);
        let due = std::mem::replace(&mut alarms.set, kept);
        drop(alarms);
        due.into_values().for_each(Waker::wake);
    }

    /// How long until the next alarm.
    pub fn until_next(&self) -> Option<Duration> {
        let alarms = lock(&self.0);
        alarms.set.keys().next().map(|(at, _)| at.saturating_sub(alarms.now))
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Duration {
        lock(&self.0).now
    }

    fn wall(&self) -> Micros {
        self.now().as_micros() as Micros
    }

    fn sleep(&self, pause: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
        let until = self.now() + pause;
        Box::pin(Sleep { clock: self.clone(), until, alarm: None })
    }
}

struct Sleep {
    clock: VirtualClock,
    until: Duration,
    alarm: Option<(Duration, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut alarms = lock(&this.clock.0);
        if let Some(alarm) = this.alarm.take() {
            alarms.set.remove(&alarm);
        }
        if alarms.now >= this.until {
            return Poll::Ready(());
        }
        alarms.next += 1;
        let alarm = (this.until, alarms.next);
        alarms.set.insert(alarm, cx.waker().clone());
        this.alarm = Some(alarm);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(alarm) = self.alarm.take() {
            lock(&self.clock.0).set.remove(&alarm);
        }
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Slot {
    pid: Pid,
    is_lane: bool,
    task: Task,
    woken: Arc<Woken>,
}

impl Slot {
    fn new(pid: Pid, is_lane: bool, task: Task) -> Self {
        Self { pid, is_lane, task, woken: Arc::new(Woken(AtomicBool::new(true))) }
    }
}

/// Lanes that were started and are not yet among the tasks.
type Spawned = Arc<Mutex<Vec<(Pid, Pin<Box<dyn Future<Output = ()> + Send>>)>>>;

/// The machine.
pub struct Machine {
    pub clock: VirtualClock,
    slots: Vec<Slot>,
    spawned: Spawned,
    frozen: Vec<Pid>,
    /// Polls so far.
    pub polls: u64,
}

impl Machine {
    pub fn new() -> Self {
        let clock = VirtualClock::default();
        Self { clock, slots: vec![], spawned: Spawned::default(), frozen: vec![], polls: 0 }
    }

    /// Starts a task of a process.
    pub fn spawn(&mut self, pid: Pid, task: impl Future<Output = ()> + 'static) {
        self.slots.push(Slot::new(pid, false, Box::pin(task)));
    }

    /// Where a process lets its lanes run.
    pub fn host(&self, pid: Pid) -> Arc<dyn Host> {
        Arc::new(LaneHost { pid, spawned: Arc::clone(&self.spawned), clock: self.clock.clone() })
    }

    /// Ends a process between two polls.
    pub fn kill(&mut self, pid: Pid) {
        self.adopt();
        // What is dropped may wake or spawn, so it goes only after the list is in order.
        let (dead, alive) = std::mem::take(&mut self.slots).into_iter().partition(|slot| slot.pid == pid);
        self.slots = alive;
        self.frozen.retain(|frozen| *frozen != pid);
        drop::<Vec<Slot>>(dead);
        lock(&self.spawned).retain(|(spawned, ..)| *spawned != pid);
    }

    /// Stops a process, or lets it go on.
    pub fn freeze(&mut self, pid: Pid, freeze: bool) {
        self.frozen.retain(|frozen| *frozen != pid);
        if freeze {
            self.frozen.push(pid);
        }
    }

    pub fn is_alive(&self, pid: Pid) -> bool {
        self.slots.iter().any(|slot| slot.pid == pid) || lock(&self.spawned).iter().any(|(spawned, ..)| *spawned == pid)
    }

    fn adopt(&mut self) {
        let spawned = lock(&self.spawned).drain(..).map(|(pid, lane)| Slot::new(pid, true, lane)).collect::<Vec<_>>();
        self.slots.extend(spawned);
    }

    /// Polls one task; false if nobody was woken.
    pub fn step(&mut self, rng: &mut Rng) -> bool {
        self.adopt();
        let runs = |slot: &Slot| slot.woken.0.load(Ordering::Relaxed) && !self.frozen.contains(&slot.pid);
        let count = self.slots.iter().filter(|slot| runs(slot)).count();
        if count == 0 {
            return false;
        }
        let pick = rng.below(count);
        let index = self.slots.iter().enumerate().filter(|(_, slot)| runs(slot)).nth(pick).map(|(index, _)| index);
        let index = index.expect("the pick is below the count");
        let slot = &mut self.slots[index];
        slot.woken.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&slot.woken));
        self.polls += 1;
        let ended = slot.task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let (pid, is_lane) = (slot.pid, slot.is_lane);
        if ended {
            drop(self.slots.swap_remove(index));
        }
        if !is_lane {
            // A channel does not wake a lane; a thread would wait in it. Only the process itself feeds its lanes.
            for lane in self.slots.iter().filter(|slot| slot.pid == pid && slot.is_lane) {
                lane.woken.0.store(true, Ordering::Relaxed);
            }
        }
        true
    }

    /// Lets time jump to the next alarm; false if there is none.
    pub fn jump(&mut self) -> bool {
        let Some(pause) = self.clock.until_next() else { return false };
        self.clock.advance(pause);
        true
    }
}

struct LaneHost {
    pid: Pid,
    spawned: Spawned,
    clock: VirtualClock,
}

impl Host for LaneHost {
    fn start(&self, _: String, runner: Runner) -> Fut<'static, ()> {
        let (sender, ended) = tokio::sync::oneshot::channel();
        let clock = self.clock.clone();
        let lane = async move { drop(sender.send(run_lane(runner, clock).await)) };
        lock(&self.spawned).push((self.pid, Box::pin(lane)));
        Box::pin(async move { ended.await.unwrap_or_else(|_| Err(Error::stopped())) })
    }
}

/// What a lane's thread does, with a poll in the place of each wait.
async fn run_lane(mut runner: Runner, clock: VirtualClock) -> Result<()> {
    loop {
        let fed = runner.receive();
        if runner.is_over() {
            return Err(Error::stopped());
        }
        if !fed {
            return runner.drain().await;
        }
        let mut alarm = match runner.turn().await? {
            Turn::Worked => clock.sleep(Duration::ZERO),
            Turn::Idle(until) => clock.sleep(until.saturating_sub(clock.now()).max(Duration::from_millis(1))),
        };
        let mut looked = false;
        // Woken by the alarm, or because work may have come; in any case others may run first.
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut looked, true) {
                return Poll::Ready(());
            }
            if alarm.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
    }
}
