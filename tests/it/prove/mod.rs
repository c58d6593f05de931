//! The claims, small in `make test` and at full size in `make prove`.

#[cfg(all(feature = "postgresql", feature = "sqlite"))]
mod kills;
#[cfg(all(feature = "postgresql", feature = "sqlite"))]
mod sides;
