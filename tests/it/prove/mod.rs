//! The claims, small in `make test` and at full size in `make prove`.

#[cfg(all(feature = "journal", feature = "postgresql", feature = "sqlite"))]
mod damage;
#[cfg(all(feature = "etcd", feature = "postgresql", feature = "sqlite"))]
mod etcd;
#[cfg(all(feature = "journal", feature = "postgresql", feature = "sqlite"))]
mod fanout;
#[cfg(all(feature = "journal", feature = "postgresql", feature = "sqlite"))]
mod fresh;
#[cfg(all(feature = "journal", feature = "postgresql", feature = "sqlite"))]
mod full;
#[cfg(all(feature = "postgresql", feature = "sqlite"))]
mod kills;
#[cfg(all(feature = "journal", feature = "postgresql", feature = "sqlite"))]
mod past;
#[cfg(feature = "postgresql")]
mod raw;
#[cfg(all(feature = "postgresql", feature = "sqlite"))]
mod routes;
#[cfg(all(feature = "postgresql", feature = "sqlite"))]
pub mod sides;
#[cfg(all(feature = "postgresql", feature = "sqlite"))]
mod standby;
#[cfg(all(feature = "journal", feature = "postgresql", feature = "sqlite"))]
mod vandal;
