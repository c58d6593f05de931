//! What somebody wants left out, renamed and replaced: values, as configuration gives them, and what must hold between them.
//!
//! Rules belong to the stream. What would leave something behind in a destination if it changed (a profile, a renaming) is
//! part of the stream's layout, and a changed one is refused; everything else is part of its extent, and a changed one is
//! healed by difference. The texts of both are compared with those of earlier releases and must not change. Pure.

use std::fmt;

use uuid::Uuid;

use super::classes::{self, Class};

/// Left out of every teleport layout: a lock that is held in one cluster must not stop the other.
pub const NEVER: &str = ".locks/";

/// Everything that can be wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Prefixes of keys that are taken. Without a profile nothing else is, if there is any; with one they are taken beside
    /// what the profile takes.
    pub include: Vec<String>,
    /// Prefixes of keys that are left out.
    pub exclude: Vec<String>,
    /// Classes that are left out; of [`Class::Presence`] only what expires.
    pub drop: Vec<Class>,
    /// A choice of classes that somebody else has made.
    pub profile: Option<Profile>,
    /// Prefixes of keys that are called otherwise at the sink.
    pub rename: Vec<Rename>,
    /// Values that are others at the sink.
    pub replace: Vec<Replace>,
}

/// A built-in choice of classes, and of fields that are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// For a cluster to try things in: no secret, nothing that acts on anybody, no key of an unknown class.
    TestCluster,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 1] = [Self::TestCluster];

    /// Its name, as in configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::TestCluster => "test-cluster",
        }
    }

    /// Whether it takes a class.
    pub fn takes(self, class: Class) -> bool {
        match self {
            Self::TestCluster => class.is_for_tests(),
        }
    }

    /// The field that it removes from items of a class.
    pub fn removes(self, class: Class) -> Option<&'static [&'static str]> {
        match (self, class) {
            // Teleport keeps what a user logs in with beside the user. Where it once was written into it, it goes.
            (Self::TestCluster, Class::Users) => Some(&["spec", "local_auth"]),
            _ => None,
        }
    }
}

/// Keys that begin with `from` begin with `to` at the sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    /// At the source.
    pub from: String,
    /// At the sink.
    pub to: String,
}

/// What becomes of values under a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replace {
    /// Of keys at the source.
    pub prefix: String,
    /// What becomes of them.
    pub with: Substitute,
}

/// What a value becomes.
#[derive(Clone, PartialEq, Eq)]
pub enum Substitute {
    /// These bytes.
    Value(Vec<u8>),
    /// Itself, with a field set to this JSON text or removed.
    Field {
        /// Names of members, from the outside to the inside.
        path: Vec<String>,
        /// `None` removes it.
        json: Option<String>,
    },
}

impl fmt::Debug for Substitute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is put in may have come out of a file of secrets.
        match self {
            Self::Value(_) => f.write_str("Value"),
            Self::Field { path, json } => write!(f, "Field({path:?}, removed: {})", json.is_none()),
        }
    }
}

/// A rule that cannot be, as the configuration's key and what is wrong with it.
pub type Wrong = (&'static str, String);

impl Rules {
    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the rules can be followed all at once.
    ///
    /// # Errors
    /// The first that cannot.
    pub fn check(&self) -> Result<(), Wrong> {
        for (key, prefixes) in [("include", &self.include), ("exclude", &self.exclude)] {
            if prefixes.iter().any(String::is_empty) {
                let what = if key == "exclude" { "which would leave out everything" } else { "which takes everything" };
                return Err((key, format!("holds an empty prefix, {what}")));
            }
        }
        if let Some(both) = self.include.iter().find(|prefix| self.exclude.contains(prefix)) {
            return Err(("include", format!("names {both:?}, and so does `exclude`")));
        }
        self.check_rename()?;
        self.check_replace()
    }

    fn check_rename(&self) -> Result<(), Wrong> {
        let wrong = |what: String| Err(("rename", what));
        for (index, Rename { from, to }) in self.rename.iter().enumerate() {
            if from.is_empty() || to.is_empty() {
                return wrong("holds an empty prefix".to_owned());
            }
            if from.ends_with('/') != to.ends_with('/') {
                return wrong(format!("turns {from:?} into {to:?}, of which only one ends in `/`"));
            }
            if [from, to].iter().any(|prefix| prefix.starts_with(NEVER) || NEVER.starts_with(prefix.as_str())) {
                return wrong(format!("touches `{NEVER}`, which is never carried over"));
            }
            for other in &self.rename[..index] {
                if other.from == *from {
                    return wrong(format!("names {from:?} twice"));
                }
                if other.to.starts_with(to.as_str()) || to.starts_with(other.to.as_str()) {
                    return wrong(format!(
                        "turns keys into {:?} and into {to:?}, so two keys could become one",
                        other.to
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_replace(&self) -> Result<(), Wrong> {
        let wrong = |what: String| Err(("replace", what));
        for (index, Replace { prefix, with }) in self.replace.iter().enumerate() {
            if prefix.is_empty() {
                return wrong("holds an empty prefix".to_owned());
            }
            if matches!(with, Substitute::Field { path, .. } if path.iter().any(String::is_empty) || path.is_empty()) {
                return wrong(format!("names a field of {prefix:?} without a name"));
            }
            for other in &self.replace[..index] {
                match (&other.with, with) {
                    (Substitute::Value(_), Substitute::Value(_)) if other.prefix == *prefix => {
                        return wrong(format!("replaces the value of {prefix:?} twice"));
                    }
                    (Substitute::Value(_), Substitute::Field { .. }) if prefix.starts_with(&other.prefix) => {
                        return wrong(format!("names a field of {prefix:?}, whose whole value is replaced"));
                    }
                    (Substitute::Field { .. }, Substitute::Value(_)) if other.prefix.starts_with(prefix) => {
                        return wrong(format!("names a field of {:?}, whose whole value is replaced", other.prefix));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// What the rules add to the stream's layout; empty for none.
    pub fn layout(&self) -> String {
        let mut renames: Vec<_> = self.rename.iter().map(|r| format!(", {:?} renamed to {:?}", r.from, r.to)).collect();
        renames.sort_unstable();
        let profile = self.profile.map(|profile| format!(", profile {}", profile.name()));
        profile.into_iter().chain(renames).collect()
    }

    /// What the rules add to the stream's extent, in no particular order.
    pub fn extent(&self) -> Vec<String> {
        let mut all: Vec<String> = self.exclude.iter().map(|prefix| format!("not {prefix:?}")).collect();
        all.extend(self.include.iter().map(|prefix| format!("with {prefix:?}")));
        all.extend(self.drop.iter().map(|class| format!("no {}", class.name())));
        if !self.drop.is_empty() || self.profile.is_some() {
            all.push(format!("classes {}", classes::VERSION));
        }
        all.extend(self.replace.iter().enumerate().map(|(index, replace)| {
            // Fields are replaced in the order of the file. What is put in is nobody's business but the file's.
            let Replace { prefix, with } = replace;
            match with {
                Substitute::Value(value) => format!("value of {prefix:?} {}", print(value)),
                Substitute::Field { path, json: None } => format!("field {index} of {prefix:?} {path:?} removed"),
                Substitute::Field { path, json: Some(json) } => {
                    format!("field {index} of {prefix:?} {path:?} {}", print(json.as_bytes()))
                }
            }
        }));
        all
    }
}

/// Tells two texts apart and says nothing about either.
fn print(bytes: &[u8]) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rename(all: &[(&str, &str)]) -> Rules {
        let rename = all.iter().map(|(from, to)| Rename { from: (*from).into(), to: (*to).into() }).collect();
        Rules { rename, ..Rules::default() }
    }

    fn value(prefix: &str, text: &str) -> Replace {
        Replace { prefix: prefix.into(), with: Substitute::Value(text.into()) }
    }

    fn field(prefix: &str, name: &str, json: Option<&str>) -> Replace {
        let with = Substitute::Field { path: vec![name.into()], json: json.map(str::to_owned) };
        Replace { prefix: prefix.into(), with }
    }

    #[test]
    fn renamings_that_could_make_one_key_of_two_are_refused() {
        let why = |all: &[(&str, &str)]| rename(all).check().unwrap_err().1;
        assert!(why(&[("/a/", "/c/"), ("/b/", "/c/")]).contains("two keys could become one"));
        assert!(why(&[("/a/", "/c/"), ("/b/", "/c/d/")]).contains("two keys could become one"));
        assert!(why(&[("/a/", "/c/"), ("/a/", "/d/")]).contains("twice"));
        assert!(why(&[("/a/", "/c")]).contains("only one ends in"));
        assert!(why(&[("", "/c/")]).contains("empty"));
        assert!(why(&[("/a/", ".locks/")]).contains(".locks/"));
        assert!(why(&[(".locks/x/", "/a/")]).contains(".locks/"));
        for fine in [&[("/a/", "/b/"), ("/b/", "/a/")][..], &[("/a/", "/b/"), ("/a/x/", "/c/")], &[("/a/", "/a/a/")]] {
            assert_eq!(rename(fine).check(), Ok(()), "{fine:?}");
        }
    }

    #[test]
    fn replacements_that_contradict_each_other_are_refused() {
        let why = |replace: Vec<Replace>| Rules { replace, ..Rules::default() }.check().map_err(|(key, _)| key);
        assert_eq!(why(vec![value("/a/", "x"), value("/a/", "y")]), Err("replace"));
        assert_eq!(why(vec![value("/a/", "x"), field("/a/b/", "f", None)]), Err("replace"));
        assert_eq!(why(vec![field("/a/b/", "f", None), value("/a/", "x")]), Err("replace"));
        assert_eq!(why(vec![field("/a/", "", None)]), Err("replace"));
        assert_eq!(why(vec![field("/a/", "f", None), value("/a/b/", "x"), field("/a/", "g", Some("1"))]), Ok(()));
    }

    #[test]
    fn a_prefix_is_not_both_taken_and_left_out() {
        let rules = Rules { include: vec!["/a/".into()], exclude: vec!["/a/".into()], ..Rules::default() };
        assert_eq!(rules.check().unwrap_err().0, "include");
        let rules = Rules { exclude: vec![String::new()], ..Rules::default() };
        assert!(rules.check().unwrap_err().1.contains("would leave out everything"));
    }

    /// Streams that exist were claimed with these texts.
    #[test]
    fn the_texts_of_a_stream_do_not_change() {
        assert_eq!((Rules::default().layout(), Rules::default().extent()), (String::new(), Vec::new()));
        let rules = Rules {
            include: vec!["/custom/".into()],
            exclude: vec!["/a/".into()],
            drop: vec![Class::Presence],
            profile: Some(Profile::TestCluster),
            replace: vec![value("/v/", "secret"), field("/f/", "x", Some("1")), field("/f/", "y", None)],
            ..rename(&[("/b/", "/c/"), ("/a/", "/d/")])
        };
        assert_eq!(rules.layout(), ", profile test-cluster, \"/a/\" renamed to \"/d/\", \"/b/\" renamed to \"/c/\"");
        assert_eq!(
            rules.extent(),
            [
                "not \"/a/\"",
                "with \"/custom/\"",
                "no presence",
                "classes 1",
                "value of \"/v/\" 86b6c060-673a-5dfb-a533-8247959f432b",
                "field 1 of \"/f/\" [\"x\"] 996ad860-2a9a-504f-8861-aeafd0b2ae29",
                "field 2 of \"/f/\" [\"y\"] removed",
            ]
        );
        let said = format!("{rules:?}{}{:?}", rules.layout(), rules.extent());
        assert!(!said.contains("secret"), "{said}");
    }
}
