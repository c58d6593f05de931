//! Which faults a seed has, and how wild: swarm testing. Some are off, the others anything from rare to constant.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use driftless::kinds::memory::{Outcome, Plan, Site};

use crate::rng::Rng;

const SITES: [Site; 12] = [
    Site::Head,
    Site::Pin,
    Site::Tail,
    Site::Next,
    Site::Release,
    Site::Scan,
    Site::Get,
    Site::Inspect,
    Site::Claim,
    Site::Beat,
    Site::Stage,
    Site::Commit,
];

/// Per mille of each fault at one door.
#[derive(Clone, Copy, Debug, Default)]
struct Weights {
    slow: usize,
    hold: usize,
    reject: usize,
    answer_lost: usize,
    late: usize,
}

/// Faults by chance, until they are switched off.
#[derive(Clone)]
pub struct Swarm {
    rng: Rng,
    weights: BTreeMap<Site, Weights>,
    on: Arc<AtomicBool>,
}

impl Swarm {
    pub fn new(rng: &mut Rng, on: &Arc<AtomicBool>) -> Self {
        let calm = rng.chance(150);
        let mut weight = |wild: &[usize]| if calm || rng.coin() { 0 } else { rng.pick(wild) };
        let weights = SITES
            .into_iter()
            .map(|site| {
                let commit = site == Site::Commit;
                let weights = Weights {
                    slow: weight(&[20, 200, 600]),
                    hold: weight(&[2, 10, 30]),
                    reject: weight(if commit { &[10, 60, 250] } else { &[5, 20, 80] }),
                    answer_lost: weight(&[10, 60, 200]),
                    late: if commit { weight(&[20, 100, 300]) } else { 0 },
                };
                (site, weights)
            })
            .collect();
        Self { rng: rng.fork(), weights, on: Arc::clone(on) }
    }
}

impl Plan for Swarm {
    fn draw(&mut self, site: Site) -> Outcome {
        if !self.on.load(Ordering::Relaxed) {
            return Outcome::Go;
        }
        let weights = self.weights[&site];
        let mut draw = self.rng.below(1000);
        let polls = 1 + self.rng.below(6) as u32;
        let outcomes = [
            (weights.slow, Outcome::Slow(polls)),
            (weights.hold, Outcome::Hold),
            (weights.reject, Outcome::Reject),
            (weights.answer_lost, Outcome::AnswerLost),
            (weights.late, Outcome::Late),
        ];
        for (weight, outcome) in outcomes {
            if draw < weight {
                return outcome;
            }
            draw -= weight;
        }
        Outcome::Go
    }
}
