//! A journal in reserve.
