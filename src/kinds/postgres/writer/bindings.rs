//! The tables that a writer has met, and how much it trusts that rows for them are new.

use std::collections::HashMap;
use std::sync::Arc;

use super::session::Session;
use super::target::{Binding, Target};
use super::widen::widen;
use crate::error::{Error, Result};
use crate::kinds::postgres::kvrow;
use crate::kinds::postgres::shape::Shape;
use crate::model::{Layout, Table};

/// What is known about the destination's tables; belongs to one session.
#[derive(Default)]
pub struct Bindings {
    bound: Vec<Arc<Binding>>,
    targets: Vec<Arc<Target>>,
    pauses: HashMap<u32, Pause>,
    temporary: Vec<String>,
}

/// How long COPY into the table itself is not tried after a row was there already.
#[derive(Clone, Copy, Default)]
struct Pause {
    left: u32,
    length: u32,
}

impl Bindings {
    /// LIMIT: tables times the shapes that each had lately; beyond it all are looked up again.
    const KEPT: usize = 1024;
    /// LIMIT: commits for which COPY is not tried again, doubled from the first to the last with each failure. A failed
    /// try costs as much as a commit.
    const PAUSES: (u32, u32) = (8, 1024);

    /// How rows of a source's table are written.
    ///
    /// # Errors
    /// Config when the destination has no such table or it does not fit.
    pub async fn get(&mut self, session: &Session, layout: Layout, table: &Arc<Table>) -> Result<Arc<Binding>> {
        if let Some(known) = self.bound.iter().rfind(|bound| Arc::ptr_eq(&bound.table, table)) {
            return Ok(Arc::clone(known));
        }
        let shape = self.shape(session, layout, table)?;
        let (schema, name) = match layout {
            Layout::Teleport => (session.schema.as_str(), "kv"),
            Layout::Raw => (shape.schema.as_str(), shape.name.as_str()),
        };
        let mut target = self.target(session, schema, name).await?;
        if layout == Layout::Raw && widen(session, &target, &shape).await? {
            self.targets.retain(|known| known.name != target.name);
            self.bound.retain(|known| known.target.name != target.name);
            target = self.target(session, schema, name).await?;
        }
        let binding = Arc::new(Binding::new(table, shape, target, layout == Layout::Teleport)?);
        if self.bound.len() == Self::KEPT {
            self.bound.clear();
        }
        self.bound.push(Arc::clone(&binding));
        Ok(binding)
    }

    fn shape(&self, session: &Session, layout: Layout, table: &Arc<Table>) -> Result<Arc<Shape>> {
        // The same table comes again as another object with every page of a scan; its shape is decoded once.
        if let Some(same) = self.bound.iter().rfind(|bound| bound.table == *table) {
            return Ok(Arc::clone(&same.shape));
        }
        match (layout, Shape::of(table)) {
            // A body that came from another kind is a row of `kv` as Teleport makes it.
            (Layout::Teleport, Err(_)) => Ok(Arc::new(kvrow::shape(&session.schema))),
            (_, shape) => shape,
        }
    }

    async fn target(&mut self, session: &Session, schema: &str, name: &str) -> Result<Arc<Target>> {
        let full = format!("{schema}.{name}");
        if let Some(known) = self.targets.iter().find(|target| target.name == full) {
            return Ok(Arc::clone(known));
        }
        let found = Target::find(session, schema, name).await?;
        let target = Arc::new(found.ok_or_else(|| {
            Error::config(format!("write to table {full:?} of the destination: there is no such table"))
        })?);
        self.targets.push(Arc::clone(&target));
        Ok(target)
    }

    /// Whether COPY into the table itself is worth a try now.
    pub fn may_copy(&mut self, target: &Target) -> bool {
        match self.pauses.get_mut(&target.oid) {
            Some(pause) if pause.left > 0 => {
                pause.left -= 1;
                false
            }
            _ => true,
        }
    }

    /// Whether a row was ever there already.
    pub fn has_collided(&self, target: &Target) -> bool {
        self.pauses.contains_key(&target.oid)
    }

    /// A row was there already.
    pub fn collided(&mut self, target_oid: u32) {
        let pause = self.pauses.entry(target_oid).or_default();
        pause.length = (pause.length * 2).clamp(Self::PAUSES.0, Self::PAUSES.1);
        pause.left = pause.length;
    }

    /// A name for the temporary table that is made by this statement; the same for the same statement.
    pub fn temporary(&mut self, made_by: &str) -> String {
        let known = self.temporary.iter().position(|text| text == made_by);
        let index = known.unwrap_or_else(|| {
            self.temporary.push(made_by.to_owned());
            self.temporary.len() - 1
        });
        format!("pg_temp.driftless_feed_{index}")
    }
}
