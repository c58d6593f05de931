//! Placeholder for the kind's documentation.
