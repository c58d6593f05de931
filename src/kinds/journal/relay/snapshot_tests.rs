//! Snapshots beside a capture.
