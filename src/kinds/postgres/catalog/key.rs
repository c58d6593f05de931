//! Which key the rows of a table are told apart by, and why there may be none.
//!
//! A usable key is an index that is unique, immediate, valid, whole (not partial), on plain columns that are all NOT
//! NULL and none of them generated. Which one: the index of the replica identity if the table names one, else the primary
//! key, else the first such unique index by name. A deferrable key is not usable: within one statement rows may change
//! places, and applied one after the other they would overwrite each other.

use super::super::shape::Identity;

/// An index, as far as it matters here.
#[derive(Clone, Debug, Default)]
pub struct Candidate {
    pub name: String,
    pub primary: bool,
    pub identity: bool,
    pub unique: bool,
    pub immediate: bool,
    pub partial: bool,
    pub valid: bool,
    /// Column numbers, 0 for expressions; included columns left out.
    pub columns: Vec<i16>,
}

/// A column, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub struct KeyColumn {
    pub number: i16,
    pub not_null: bool,
    pub generated: bool,
}

/// What is known of a table when its key is chosen.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub identity: Identity,
    pub unlogged: bool,
    pub candidates: Vec<Candidate>,
    pub columns: Vec<KeyColumn>,
    /// Partitions whose own replica identity is another one than the root's.
    pub strays: Vec<String>,
}

impl Candidate {
    /// Why it is no usable key.
    fn flaw(&self, columns: &[KeyColumn]) -> Option<&'static str> {
        let all = |test: fn(&KeyColumn) -> bool| {
            self.columns.iter().all(|number| columns.iter().any(|column| column.number == *number && test(column)))
        };
        if !self.unique {
            Some("is not unique")
        } else if !self.immediate {
            Some("is deferrable")
        } else if self.partial {
            Some("is partial")
        } else if !self.valid {
            Some("is not valid")
        } else if !all(|_| true) {
            Some("holds an expression")
        } else if !all(|column| column.not_null) {
            Some("holds a column that may be null")
        } else if !all(|column| !column.generated) {
            Some("holds a generated column")
        } else {
            None
        }
    }
}

impl Facts {
    /// The usable key.
    ///
    /// # Errors
    /// The reason why there is none, with what helps. `quoted` is the table's name as SQL.
    pub fn choose(&self, quoted: &str, tail: bool) -> Result<&Candidate, String> {
        let named = self.candidates.iter().find(|index| index.identity).filter(|_| self.identity == Identity::Index);
        let primary = self.candidates.iter().find(|index| index.primary);
        let usable = |index: &&Candidate| index.flaw(&self.columns).is_none();
        let mut others: Vec<_> = self.candidates.iter().filter(usable).collect();
        others.sort_by(|a, b| a.name.cmp(&b.name));
        let first_other = others.first().copied();
        let chosen = named.or(primary.filter(usable)).or(first_other);
        let Some(key) = chosen else {
            return Err(match primary {
                Some(primary) => format!(
                    "its primary key {:?} {}, and it has no other usable key",
                    primary.name,
                    primary.flaw(&self.columns).unwrap_or("is not usable")
                ),
                None => "it has no primary key and no unique index that is immediate, not partial and on columns that \
                         are not null"
                    .to_owned(),
            });
        };
        if let Some(flaw) = key.flaw(&self.columns) {
            return Err(format!("the index of its replica identity {:?} {flaw}", key.name));
        }
        if tail {
            self.followed(key, quoted)?;
        }
        Ok(key)
    }

    /// Whether the server logs this key with every change.
    fn followed(&self, key: &Candidate, quoted: &str) -> Result<(), String> {
        if self.unlogged {
            return Err(format!("it is unlogged, so its changes are in no log; alter table {quoted} set logged"));
        }
        let enough = match self.identity {
            Identity::Full => true,
            Identity::Default => key.primary,
            Identity::Index => key.identity,
            Identity::Nothing => false,
        };
        if !enough {
            let index = if key.primary { "default".to_owned() } else { format!("using index \"{}\"", key.name) };
            return Err(format!(
                "its replica identity does not log the key {:?}, so publishing it would make its updates fail; alter \
                 table {quoted} replica identity {index}",
                key.name
            ));
        }
        match self.strays.as_slice() {
            [] => Ok(()),
            strays => Err(format!(
                "these partitions have another replica identity than it: {}; give them the same",
                strays.join(", ")
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(name: &str) -> Candidate {
        Candidate {
            name: name.into(),
            unique: true,
            immediate: true,
            valid: true,
            columns: vec![1],
            ..Candidate::default()
        }
    }

    fn facts(candidates: Vec<Candidate>) -> Facts {
        let column = |number| KeyColumn { number, not_null: number != 2, generated: number == 3 };
        Facts { candidates, columns: (1..=4).map(column).collect(), ..Facts::default() }
    }

    #[test]
    fn the_primary_key_comes_first_unless_the_replica_identity_names_an_index() {
        let mut facts = facts(vec![
            index("a"),
            Candidate { identity: true, ..index("i") },
            Candidate { primary: true, ..index("p") },
        ]);
        assert_eq!(facts.choose("t", true).unwrap().name, "p");
        facts.identity = Identity::Index;
        assert_eq!(facts.choose("t", true).unwrap().name, "i");
    }

    #[test]
    fn an_index_that_does_not_tell_rows_apart_is_no_key() {
        let flaws: [fn(&mut Candidate); 7] = [
            |index| index.unique = false,
            |index| index.immediate = false,
            |index| index.partial = true,
            |index| index.valid = false,
            |index| index.columns = vec![1, 0],
            |index| index.columns = vec![2],
            |index| index.columns = vec![3],
        ];
        for flaw in flaws {
            let mut candidate = Candidate { primary: true, ..index("p") };
            flaw(&mut candidate);
            assert!(facts(vec![candidate.clone()]).choose("t", false).is_err(), "{candidate:?}");
            let other = facts(vec![candidate.clone(), index("u")]);
            assert_eq!(other.choose("t", false).unwrap().name, "u", "{candidate:?}");
            // Scanned it may be, but the log would not carry that key.
            assert!(other.choose("t", true).unwrap_err().contains("using index \"u\""));
        }
    }

    #[test]
    fn a_table_is_followed_only_if_its_log_carries_the_key() {
        let primary = || vec![Candidate { primary: true, ..index("p") }];
        let with = |change: fn(&mut Facts)| {
            let mut facts = facts(primary());
            change(&mut facts);
            facts.choose("t", false).unwrap();
            facts.choose("t", true).map(|_| ())
        };
        with(|_| {}).unwrap();
        with(|facts| facts.identity = Identity::Full).unwrap();
        assert!(with(|facts| facts.identity = Identity::Nothing).unwrap_err().contains("replica identity default"));
        assert!(with(|facts| facts.unlogged = true).unwrap_err().contains("set logged"));
        assert!(with(|facts| facts.strays = vec!["p1".into()]).unwrap_err().contains("p1"));
    }
}
