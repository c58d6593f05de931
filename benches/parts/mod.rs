//! What several benches need.

use std::io::Write as _;
use std::time::Instant;

/// The value below which this part of sorted ones lies.
pub fn at(sorted: &[f64], part: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * part) as usize]
}

/// How long this disk takes to keep eight KiB, in milliseconds: a commit at a durable store takes at least that.
pub fn fsync_ms() -> f64 {
    let mut file = tempfile::tempfile().unwrap();
    let mut times: Vec<f64> = (0..50)
        .map(|_| {
            file.write_all(&[7; 8192]).unwrap();
            let begun = Instant::now();
            file.sync_data().unwrap();
            begun.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
