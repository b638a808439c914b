//! The rule that no two public types share a name.

use crate::source::Source;
use std::collections::BTreeMap;

/// Names that two public types may share, each with its reason.
const SHARED: [(&str, &str); 10] = [
    ("Builder", THE_NAMES_OF_STD),
    ("IntoIter", THE_NAMES_OF_STD),
    ("Iter", THE_NAMES_OF_STD),
    ("TryIter", THE_NAMES_OF_STD),
    ("Receiver", THE_NAMES_OF_STD),
    ("Sender", THE_NAMES_OF_STD),
    ("Scope", THE_NAMES_OF_STD),
    ("Descriptor", A_DESCRIPTOR),
    ("RawMutex", THE_NAMES_OF_LOCK_API),
    ("RawRwLock", THE_NAMES_OF_LOCK_API),
];

const THE_NAMES_OF_STD: &str = "`gopark::thread` and `gopark::sync::mpsc` have the names of `std`, \
                                so that a program can change between them";
const A_DESCRIPTOR: &str = "the shim's is the one to wait for, that of core's watch is one of a \
                            snapshot, which the shim does not show";
const THE_NAMES_OF_LOCK_API: &str = "the shim's type is the core's, with the traits of `lock_api`";

/// The names that two or more public types of the libraries share.
pub(crate) fn homonyms(sources: &[Source]) -> Vec<String> {
    let mut places: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for source in sources.iter().filter(|source| source.is_library()) {
        for line in source.library_lines() {
            if let Some(name) = public_type(line.raw) {
                let place = format!("{}:{}", source.path, line.number);
                places.entry(name).or_default().push(place);
            }
        }
    }
    places
        .into_iter()
        .filter(|(name, places)| {
            places.len() > 1 && SHARED.iter().all(|(shared, _)| shared != name)
        })
        .map(|(name, places)| format!("{name} is declared in {}", places.join(" and ")))
        .collect()
}

/// The name of the public type whose declaration begins in `line`.
fn public_type(line: &str) -> Option<&str> {
    let item = line.trim_start().strip_prefix("pub ")?;
    let item = item.strip_prefix("unsafe ").unwrap_or(item);
    let (kind, rest) = item.split_once(' ')?;
    let name = rest
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()?;
    // In a macro it has no name yet.
    let is_type = ["struct", "enum", "union", "trait", "type"].contains(&kind) && !name.is_empty();
    is_type.then_some(name)
}
