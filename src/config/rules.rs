//! The keys that say what is left out, renamed and replaced.

use crate::config::section::{Scalar, Section};
use crate::error::Result;
use crate::filter::classes::Class;
use crate::filter::rules::{Profile, Rename, Replace, Rules, Substitute};
use crate::model::Layout;

/// Reads the rules of a pipeline.
pub(super) fn read(section: &Section<'_>, layout: Layout) -> Result<Rules> {
    let mut rules = Rules {
        include: section.texts("include")?.unwrap_or_default(),
        exclude: section.texts("exclude")?.unwrap_or_default(),
        drop: classes(section)?,
        profile: profile(section)?,
        ..Rules::default()
    };
    rules.check().map_err(|(key, what)| section.wrong(key, what))?;
    for entry in section.sections("rename")?.unwrap_or_default() {
        let from = entry.required("from", "the prefix at the source")?;
        rules.rename.push(Rename { from, to: entry.required("to", "the prefix at the sink")? });
        agree(section, &entry, &rules)?;
        entry.finish()?;
    }
    for entry in section.sections("replace")?.unwrap_or_default() {
        rules.replace.push(replace(&entry)?);
        agree(section, &entry, &rules)?;
        entry.finish()?;
    }
    if layout == Layout::Raw
        && let Some(key) =
            ["exclude", "include", "drop", "profile", "rename", "replace"].into_iter().find(|key| section.says(key))
    {
        let what = "names prefixes of Teleport's keys, which `layout: raw` does not have; choose by `tables` (etcd: `prefix`, dynamodb: `table_name`) instead";
        return Err(section.wrong(key, what));
    }
    Ok(rules)
}

/// Whether an entry goes with those before it.
fn agree(section: &Section<'_>, entry: &Section<'_>, rules: &Rules) -> Result<()> {
    rules.check().map_err(|(key, what)| section.context.error(entry.line, format!("`{key}` {what}")))
}

fn classes(section: &Section<'_>) -> Result<Vec<Class>> {
    let named = section.texts("drop")?.unwrap_or_default();
    let class = |name: &String| {
        Class::ALL.into_iter().find(|class| class.name() == name).ok_or_else(|| {
            let known = Class::ALL.map(Class::name).join(", ");
            section.wrong("drop", format!("names a class that is not known; known are {known}"))
        })
    };
    named.iter().map(class).collect()
}

fn profile(section: &Section<'_>) -> Result<Option<Profile>> {
    let chosen = section.word("profile", &Profile::ALL.map(Profile::name))?;
    Ok(chosen.map(|index| Profile::ALL[index]))
}

fn replace(entry: &Section<'_>) -> Result<Replace> {
    let prefix = entry.required("prefix", "the beginning of keys at the source")?;
    let path = match entry.texts("field")? {
        None => None,
        // Names that hold a dot are written as a list.
        Some(names) if entry.is_list("field") => Some(names),
        Some(names) => Some(names.iter().flat_map(|name| name.split('.')).map(str::to_owned).collect::<Vec<_>>()),
    };
    let removed = entry.truth("remove")?.unwrap_or(false);
    let with = match (path, entry.scalar("value")?, removed) {
        (_, Some(_), true) => return Err(entry.wrong("remove", "stands beside `value`; a field is one or the other")),
        (_, None, false) => {
            return Err(entry.context.error(entry.line, "`replace` needs a `value`, or `remove: true`"));
        }
        (None, None, true) => {
            let what = "means a field, and there is no `field`; to leave the items out, name their prefix in `exclude`";
            return Err(entry.wrong("remove", what));
        }
        (Some(path), None, true) => Substitute::Field { path, json: None },
        (Some(path), Some(value), false) => Substitute::Field { path, json: Some(value.json()) },
        (None, Some(Scalar::Text(text)), false) if !text.is_empty() => Substitute::Value(text.into_bytes()),
        (None, Some(_), false) => return Err(entry.wrong("value", "must be text and not empty; put it in quotes")),
    };
    Ok(Replace { prefix, with })
}
