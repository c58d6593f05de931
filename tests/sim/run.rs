//! One seed: a world, a sink, processes between them, and everything that can happen.
//!
//! First chaos for a number of steps, the oracle looking after each of them; then quiet: faults off, one process left, and
//! within bounded time the sink must be the source.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use driftless::engine::heal::Tally;
use driftless::engine::pipeline::{Pipeline, RepairRequest, Settings};
use driftless::engine::status::{Shared, State, Status};
use driftless::error::{Fault, Result as Outcome};
use driftless::kinds::memory::{Backup, Body, MemorySink, SinkBackup, World, bridge};
use driftless::model::{Owner, Scope, StreamId};
use driftless::sink::Limits;
use tokio::sync::{mpsc, oneshot, watch};

use crate::faults::Swarm;
use crate::machine::{Machine, Pid};
use crate::oracle::{Meddled, Oracle};
use crate::rng::Rng;
use crate::writer::Writer;

/// What a seed consists of, drawn before it begins.
#[derive(Clone, Debug)]
pub struct Shape {
    pub tables: Vec<&'static str>,
    pub shards: u8,
    pub lanes: u16,
    pub limits: Limits,
    pub batch_bytes: usize,
    pub lagging: bool,
    pub frozen_views: bool,
    pub parallel: usize,
    pub preload: usize,
    pub steps: usize,
    /// Per ten thousand steps.
    pub rates: Rates,
}

/// How often things happen, per ten thousand steps. Some never.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    pub write: usize,
    pub drift: usize,
    pub late: usize,
    pub lift: usize,
    pub settle: usize,
    pub split: usize,
    pub disconnect: usize,
    pub crash: usize,
    pub freeze: usize,
    pub second: usize,
    pub gap: usize,
    pub sink_back: usize,
    pub source_back: usize,
    pub meddle: usize,
    pub stop: usize,
}

impl Shape {
    pub fn draw(rng: &mut Rng) -> Self {
        let shards = rng.pick(&[1, 1, 2, 4]);
        let mut rate = |wild: &[usize]| if rng.coin() { 0 } else { rng.pick(wild) };
        let rates = Rates {
            split: rate(&[10, 40]),
            disconnect: rate(&[5, 30]),
            crash: rate(&[5, 20, 60]),
            freeze: rate(&[10, 40]),
            second: rate(&[5, 30]),
            gap: rate(&[3, 10]),
            sink_back: rate(&[0, 5]),
            source_back: rate(&[0, 5]),
            meddle: rate(&[0, 10]),
            stop: rate(&[0, 10]),
            write: rng.pick(&[50, 300, 1200]),
            drift: rng.pick(&[20, 200, 800]),
            late: rng.pick(&[50, 300]),
            lift: rng.pick(&[30, 200]),
            settle: rng.pick(&[50, 300]),
        };
        let small = rng.coin();
        Self {
            tables: if rng.coin() { vec![""] } else { vec!["a", "b"] },
            shards,
            lanes: rng.pick(&[1, 1, 2, 4]),
            limits: Limits {
                changes: if small { rng.between(1, 6) } else { 1000 },
                bytes: if small { rng.pick(&[64, 300, 1 << 20]) } else { 1 << 20 },
                stage: rng.coin(),
                in_flight: rng.between(1, 4),
            },
            batch_bytes: rng.pick(&[1, 60, 200, 1000, 1 << 14]),
            lagging: rng.coin(),
            frozen_views: rng.coin(),
            parallel: rng.between(1, 4),
            preload: rng.pick(&[0, 5, 30, 80]),
            steps: rng.pick(&[500, 1500, 4000]),
            rates,
        }
    }
}

/// A process and its levers.
struct Process {
    pid: Pid,
    owner: &'static str,
    status: Shared,
    stop: watch::Sender<bool>,
    repairs: mpsc::Sender<RepairRequest>,
    exit: Arc<Mutex<Option<Outcome<()>>>>,
    frozen: bool,
    /// It began after the last time that a store was set back.
    fresh: bool,
    gaps: u64,
}

impl Process {
    fn stop(&self) {
        self.stop.send_replace(true);
    }
}

/// What a seed came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    pub polls: u64,
    pub looks: u64,
    pub consistent_looks: u64,
    pub crashes: u64,
    pub gaps: u64,
    pub late_refused: u64,
    pub repairs: u64,
}

impl Report {
    pub fn add(&mut self, other: &Self) {
        self.polls += other.polls;
        self.looks += other.looks;
        self.consistent_looks += other.consistent_looks;
        self.crashes += other.crashes;
        self.gaps += other.gaps;
        self.late_refused += other.late_refused;
        self.repairs += other.repairs;
    }
}

/// One seed at work.
pub struct Run {
    pub world: World,
    pub sink: MemorySink,
    pub machine: Machine,
    pub oracle: Oracle,
    pub shape: Shape,
    pub rng: Rng,
    stream: StreamId,
    faults_on: Arc<AtomicBool>,
    writer: Writer,
    processes: Vec<Process>,
    next_pid: Pid,
    restart_in: usize,
    world_backup: Option<Backup>,
    /// And which of its rows somebody else had changed.
    sink_backup: Option<(SinkBackup, Meddled)>,
    /// Something was done to the stores after which a gap is right.
    gap_is_due: bool,
    repair: Option<oneshot::Receiver<Outcome<Tally>>>,
    trace: bool,
    pub report: Report,
}

const EXTENT: &str = "everything";

impl Run {
    pub fn new(seed: u64, trace: bool) -> Self {
        let mut rng = Rng::new(seed);
        let mut shape = Shape::draw(&mut rng);
        let writer = Writer::new(&mut rng, shape.tables.len(), shape.shards == 1);
        if writer.is_partial() {
            // Patches and clears need one order from end to end.
            (shape.lanes, shape.rates.split) = (1, 0);
        }
        Self::with(shape, writer, rng, trace)
    }

    /// What a story begins with: nothing happens but what it tells.
    pub fn story(lanes: u16, shards: u8) -> Self {
        let limits = Limits { changes: 8, bytes: 1 << 20, stage: true, in_flight: 2 };
        let shape = Shape {
            tables: vec![""],
            shards,
            lanes,
            limits,
            batch_bytes: 100,
            lagging: false,
            frozen_views: false,
            parallel: 2,
            preload: 0,
            steps: 0,
            rates: Rates::default(),
        };
        let mut rng = Rng::new(7);
        let writer = Writer::new(&mut rng, 1, false);
        let traced = std::env::var_os("DRIFTLESS_TRACE").is_some() && std::env::var_os("DRIFTLESS_SEED").is_none();
        let run = Self::with(shape, writer, rng, traced);
        run.faults_on.store(false, Ordering::Relaxed);
        run
    }

    pub fn with(shape: Shape, writer: Writer, mut rng: Rng, trace: bool) -> Self {
        let world = World::new(&shape.tables, shape.shards)
            .with_lagging_readers(shape.lagging)
            .with_frozen_views(shape.frozen_views)
            .with_batch_bytes(shape.batch_bytes);
        let sink = MemorySink::new(shape.limits).with_page_bytes(shape.batch_bytes).recording();
        let faults_on = Arc::new(AtomicBool::new(true));
        world.plan(Swarm::new(&mut rng, &faults_on));
        sink.plan(Swarm::new(&mut rng, &faults_on));
        let stream = StreamId::new("simulated");
        let oracle = Oracle::new(&world, &sink, &stream, shape.lanes, EXTENT, &shape.tables);
        let mut run = Self {
            world,
            sink,
            machine: Machine::new(),
            oracle,
            shape,
            rng,
            stream,
            faults_on,
            writer,
            processes: vec![],
            next_pid: 1,
            restart_in: 0,
            world_backup: None,
            sink_backup: None,
            gap_is_due: false,
            repair: None,
            trace,
            report: Report::default(),
        };
        run.oracle.trace = trace;
        run.oracle.moves = run.writer.is_partial();
        run.say(|run| format!("{:?}", run.shape));
        for _ in 0..run.shape.preload {
            run.writer.write(&run.world);
        }
        run
    }

    fn say(&self, what: impl FnOnce(&Self) -> String) {
        if self.trace {
            eprintln!("{:>9.3}s {:>6} {}", self.now().as_secs_f64(), self.machine.polls, what(self));
        }
    }

    pub fn now(&self) -> Duration {
        use driftless::engine::clock::Clock;
        self.machine.clock.now()
    }

    /// Everything: chaos, then quiet.
    pub fn all(mut self) -> Result<Report, String> {
        self.chaos()?;
        self.quiet()?;
        self.report.polls = self.machine.polls;
        self.report.looks = self.oracle.looks;
        self.report.consistent_looks = self.oracle.consistent_looks;
        self.report.late_refused = self.sink.refused();
        Ok(self.report)
    }

    pub fn chaos(&mut self) -> Result<(), String> {
        self.start("first", false);
        for _ in 0..self.shape.steps {
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        if let Some(event) = self.draw() {
            self.happen(event);
        } else if !self.machine.step(&mut self.rng) && !self.machine.jump() {
            self.machine.clock.advance(Duration::from_millis(100));
        }
        self.look()
    }

    /// Looks at processes and at both ends.
    pub fn look(&mut self) -> Result<(), String> {
        let epoch = self.sink.record(&self.stream).and_then(|record| record.lanes.iter().map(|lane| lane.epoch).max());
        self.oracle.look()?;
        for process in &mut self.processes {
            let told = process.status.update(|status| (status.consistent, status.state, status.gaps, status.epoch));
            let (consistent, state, gaps, its_epoch) = told;
            if consistent && state == State::Gap {
                return Err(format!("P6: process {} says consistent in a gap", process.pid));
            }
            let owns = process.fresh && Some(its_epoch) == epoch;
            if consistent && owns && !self.oracle.is_consistent() && !self.oracle.moves {
                return Err(format!("process {} says consistent, and the sink is not", process.pid));
            }
            self.report.gaps += gaps - process.gaps;
            process.gaps = gaps;
        }
        if self.report.gaps > 0 && !self.gap_is_due {
            let reasons: Vec<_> = self.processes.iter().map(|process| process.status.get().reason).collect();
            return Err(format!("P6: a gap was reported, and there was none: {reasons:?}"));
        }
        self.bury()
    }

    /// Looks at who has ended, and why.
    fn bury(&mut self) -> Result<(), String> {
        let mut ended = vec![];
        for process in &self.processes {
            if let Some(result) = process.exit.lock().unwrap().take() {
                ended.push((process.pid, process.frozen, result));
            }
        }
        for (pid, _, result) in ended {
            self.say(|_| format!("process {pid} ended: {result:?}"));
            self.machine.kill(pid);
            self.processes.retain(|process| process.pid != pid);
            match result {
                Ok(()) => {}
                Err(error) if error.fault() == Fault::Fenced && self.next_pid > 2 => {}
                Err(error) => return Err(format!("process {pid} gave up: {error:?}")),
            }
        }
        if let Some(answer) = &mut self.repair {
            match answer.try_recv() {
                Ok(tally) => {
                    self.say(|_| format!("repair ended: {tally:?}"));
                    self.report.repairs += u64::from(tally.is_ok());
                    self.repair = None;
                }
                Err(oneshot::error::TryRecvError::Closed) => self.repair = None,
                Err(oneshot::error::TryRecvError::Empty) => {}
            }
        }
        if self.processes.is_empty() {
            if self.restart_in == 0 {
                self.start("first", false);
                self.restart_in = self.rng.between(0, 60);
            }
            self.restart_in = self.restart_in.saturating_sub(1);
        }
        Ok(())
    }

    /// Starts a process.
    pub fn start(&mut self, owner: &'static str, takeover: bool) -> Pid {
        let pid = self.next_pid;
        self.next_pid += 1;
        self.say(|_| format!("process {pid} starts as {owner:?}, takeover {takeover}"));
        let scope = Scope { layout: "memory".into(), extent: EXTENT.into(), lanes: self.shape.lanes };
        let (stop, stopped) = watch::channel(false);
        let (repairs, mut requests) = mpsc::channel(1);
        let status = Shared::new(self.stream.as_str());
        let pipeline = Pipeline {
            settings: Settings {
                stream: self.stream.clone(),
                owner: Owner(owner.into()),
                scope,
                memory: 128 << 10,
                parallel: self.shape.parallel,
                force: false,
                prune: false,
                takeover,
            },
            source: Arc::new(self.world.clone()),
            source_store: Arc::from(self.world.store()),
            sink: Arc::new(self.sink.clone()),
            sink_store: Arc::from(self.sink.store()),
            bridge: Arc::from(bridge()),
            clock: Arc::new(self.machine.clock.clone()),
            host: self.machine.host(pid),
            status: status.clone(),
            stop: stopped,
        };
        let exit = Arc::new(Mutex::new(None));
        let told = Arc::clone(&exit);
        self.machine.spawn(pid, async move {
            let result = pipeline.run(&mut requests).await;
            *told.lock().unwrap() = Some(result);
        });
        self.processes.push(Process { pid, owner, status, stop, repairs, exit, frozen: false, fresh: true, gaps: 0 });
        pid
    }

    /// Kills a process where it stands.
    pub fn kill(&mut self, pid: Pid) {
        self.say(|_| format!("process {pid} is killed"));
        self.machine.kill(pid);
        self.processes.retain(|process| process.pid != pid);
        self.report.crashes += 1;
    }

    /// Lets the machine run until something is so.
    pub fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        for _ in 0..20_000 {
            if is_so(self) {
                return;
            }
            if !self.machine.step(&mut self.rng) && !self.machine.jump() {
                self.machine.clock.advance(Duration::from_millis(100));
            }
            self.look().unwrap();
        }
        panic!("it never came to this: {what}");
    }

    /// Lets the machine run until the sink is the source and every process that says so is right.
    pub fn until_equal(&mut self) {
        self.until("the sink is the source", |run| run.oracle.is_consistent() && run.oracle.equal().is_ok());
    }

    /// What a process says of itself; nothing once it has ended.
    pub fn status(&self, pid: Pid) -> Option<Status> {
        self.processes.iter().find(|process| process.pid == pid).map(|process| process.status.get())
    }

    /// Stops a process, or lets it go on.
    pub fn freeze_one(&mut self, pid: Pid, frozen: bool) {
        self.machine.freeze(pid, frozen);
        self.processes.iter_mut().filter(|process| process.pid == pid).for_each(|process| process.frozen = frozen);
    }

    /// Sets the sink back; whoever was connected is gone.
    pub fn restore_sink(&mut self, backup: &SinkBackup) {
        self.say(|_| "the sink is set back".into());
        self.kill_all();
        self.sink.restore(backup);
        self.gap_is_due = true;
        self.oracle.forget();
    }

    /// Sets the source back.
    pub fn restore_source(&mut self, backup: &Backup, new_lineage: bool) {
        self.say(|_| "the source is set back".into());
        self.world.restore(backup, new_lineage);
        self.gap_is_due = true;
        self.processes.iter_mut().for_each(|process| process.fresh = false);
        self.oracle.forget_source(new_lineage);
    }

    /// The source forgets its history.
    pub fn trim(&mut self) {
        self.say(|_| "the source forgets its history".into());
        self.gap_is_due = true;
        self.world.trim();
    }

    fn kill_all(&mut self) {
        let all: Vec<_> = self.processes.iter().map(|process| process.pid).collect();
        all.into_iter().for_each(|pid| self.kill(pid));
    }
}

/// Things that happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Write,
    Drift,
    Late,
    Lift,
    Settle,
    Split,
    Disconnect,
    Crash,
    Freeze,
    Second,
    Gap,
    SinkBack,
    SourceBack,
    Meddle,
    Stop,
}

impl Run {
    fn draw(&mut self) -> Option<Event> {
        let rates = &self.shape.rates;
        let all = [
            (rates.write, Event::Write),
            (rates.drift, Event::Drift),
            (rates.late, Event::Late),
            (rates.lift, Event::Lift),
            (rates.settle, Event::Settle),
            (rates.split, Event::Split),
            (rates.disconnect, Event::Disconnect),
            (rates.crash, Event::Crash),
            (rates.freeze, Event::Freeze),
            (rates.second, Event::Second),
            (rates.gap, Event::Gap),
            (rates.sink_back, Event::SinkBack),
            (rates.source_back, Event::SourceBack),
            (rates.meddle, Event::Meddle),
            (rates.stop, Event::Stop),
        ];
        let mut draw = self.rng.below(10_000);
        for (rate, event) in all {
            if draw < rate {
                return Some(event);
            }
            draw -= rate;
        }
        None
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Write => self.writer.write(&self.world),
            Event::Drift => {
                let millis = self.rng.pick(&[1, 20, 300, 2000]);
                self.machine.clock.advance(Duration::from_millis(millis));
            }
            Event::Late => {
                let pick = self.rng.next() as usize;
                self.sink.land_late(pick);
            }
            Event::Lift => {
                self.world.lift();
                self.sink.lift();
            }
            Event::Settle => self.world.settle(),
            Event::Split => self.reshape(),
            Event::Disconnect if self.rng.coin() => self.world.disconnect(),
            Event::Disconnect => self.sink.disconnect(),
            Event::Crash => {
                if let Some(pid) = self.somebody() {
                    self.kill(pid);
                }
            }
            Event::Freeze => self.freeze(),
            Event::Second => self.second(),
            Event::Gap => self.trim(),
            Event::SinkBack => self.sink_back(),
            Event::SourceBack => self.source_back(),
            Event::Meddle => self.meddle(),
            Event::Stop => {
                if let Some(pid) = self.somebody() {
                    self.say(|_| format!("process {pid} is told to stop"));
                    self.processes.iter().filter(|process| process.pid == pid).for_each(Process::stop);
                }
            }
        }
    }

    fn somebody(&mut self) -> Option<Pid> {
        let count = self.processes.len();
        let pick = self.rng.next() as usize;
        Some(self.processes[pick.checked_rem(count)?].pid)
    }

    fn reshape(&mut self) {
        match self.rng.below(4) {
            0 => self.world.prune(),
            1 if self.world.open_shards() > 1 => drop(self.world.merge()),
            _ if self.world.open_shards() < 8 => {
                let pick = self.rng.next() as usize;
                self.world.split(pick);
            }
            _ => {}
        }
    }

    fn freeze(&mut self) {
        let Some(pid) = self.somebody() else { return };
        let process = self.processes.iter_mut().find(|process| process.pid == pid);
        let process = process.expect("somebody is among the processes");
        process.frozen = !process.frozen;
        let frozen = process.frozen;
        self.machine.freeze(pid, frozen);
        self.say(|_| format!("process {pid} is {}", if frozen { "stopped" } else { "let go on" }));
    }

    fn second(&mut self) {
        if self.processes.len() < 3 {
            let owner = self.rng.pick(&["first", "second"]);
            let takeover = self.rng.coin();
            self.start(owner, takeover);
        }
    }

    fn sink_back(&mut self) {
        match &self.sink_backup {
            Some((backup, meddled)) if self.rng.coin() => {
                let (backup, meddled) = (backup.clone(), meddled.clone());
                self.restore_sink(&backup);
                self.oracle.meddled.extend(meddled);
            }
            _ => self.sink_backup = Some((self.sink.backup(), self.oracle.meddled.clone())),
        }
    }

    fn source_back(&mut self) {
        match &self.world_backup {
            Some(backup) if self.rng.coin() => {
                let backup = backup.clone();
                self.restore_source(&backup, true);
            }
            _ => self.world_backup = Some(self.world.backup()),
        }
    }

    /// Somebody else writes to the sink, which a repair must find.
    fn meddle(&mut self) {
        if self.writer.is_partial() || self.repair.is_some() || !self.oracle.is_consistent() {
            return;
        }
        let rows: Vec<_> = self.sink.rows().into_keys().collect();
        let Some(pick) = (self.rng.next() as usize).checked_rem(rows.len()) else { return };
        let row = rows[pick].clone();
        let body = Body { version: 0, fields: [Some(b"meddled"), Some(b"")] }.bytes();
        let body = self.rng.coin().then_some(body);
        self.say(|_| format!("somebody changes {} at the sink", String::from_utf8_lossy(&row.1)));
        self.sink.meddle(&row.0, &row.1, body.as_deref());
        self.oracle.meddle(row, body);
        self.ask_for_repair();
    }

    fn ask_for_repair(&mut self) {
        let (sender, answer) = oneshot::channel();
        let Some(process) = self.processes.first() else { return };
        if process.repairs.try_send(sender).is_ok() {
            self.repair = Some(answer);
        }
    }
}

impl Run {
    /// Faults off, one process left: the sink becomes the source.
    pub fn quiet(&mut self) -> Result<(), String> {
        self.say(|_| "quiet from here on".into());
        self.faults_on.store(false, Ordering::Relaxed);
        while self.processes.len() > 1 {
            let pid = self.processes[0].pid;
            self.kill(pid);
        }
        for process in &mut self.processes {
            process.frozen = false;
            self.machine.freeze(process.pid, false);
        }
        // LIMIT: a healthy run needs some hundred polls; the rest is room for pauses between tries.
        let polls = self.machine.polls + 60_000;
        self.world.settle();
        self.world.lift();
        self.sink.lift();
        while self.machine.polls < polls {
            if self.rng.chance(20) {
                let pick = self.rng.next() as usize;
                self.sink.land_late(pick);
            }
            if !self.machine.step(&mut self.rng) && !self.machine.jump() {
                self.machine.clock.advance(Duration::from_millis(100));
            }
            self.look()?;
            if self.is_quiet() {
                return self.farewell();
            }
        }
        let why = self.oracle.equal().err().unwrap_or_else(|| "both are equal".into());
        let status = |process: &Process| {
            let status = process.status.get();
            format!("{:?}, consistent {}, at {}, {}", status.state, status.consistent, status.frontier, status.reason)
        };
        let status: Vec<_> = self.processes.iter().map(status).collect();
        let free = self.world.pool().map(|pool| (pool.free(), pool.count()));
        let (head, late) = (self.world.newest(), self.sink.late());
        Err(format!("P1: not quiet after {polls} polls; {why}; head {head}; late {late}, free {free:?}; {status:?}"))
    }

    fn is_quiet(&mut self) -> bool {
        if self.sink.late() > 0 || !self.oracle.is_consistent() || !self.oracle.frontier().covers(&self.world.newest())
        {
            return false;
        }
        let [process] = &self.processes[..] else { return false };
        let epoch = self.sink.record(&self.stream).and_then(|record| record.lanes.iter().map(|lane| lane.epoch).max());
        let follows =
            |status: &mut Status| status.consistent && status.state == State::Following && Some(status.epoch) == epoch;
        if !process.status.update(follows) {
            return false;
        }
        self.oracle.forgive();
        if !self.oracle.meddled.is_empty() {
            if self.repair.is_none() {
                self.ask_for_repair();
            }
            return false;
        }
        // P7: every batch is back where it came from.
        self.world.pool().is_some_and(|pool| pool.free() == pool.count())
    }

    fn farewell(&mut self) -> Result<(), String> {
        self.oracle.equal()?;
        self.say(|_| "equal; told to stop".into());
        self.processes.iter().for_each(Process::stop);
        let pid = self.processes[0].pid;
        for _ in 0..5_000 {
            if !self.machine.step(&mut self.rng) && !self.machine.jump() {
                break;
            }
            self.oracle.look()?;
            if !self.machine.is_alive(pid) {
                break;
            }
        }
        let exit = self.processes[0].exit.lock().unwrap().take();
        match exit {
            Some(Ok(())) => self.oracle.equal(),
            other => Err(format!("told to stop, process {pid} as {} ended with {other:?}", self.processes[0].owner)),
        }
    }
}
