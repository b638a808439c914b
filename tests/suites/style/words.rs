//! The words that comments, documentation and messages do not use.

use crate::source::Source;

/// This file, which has to name the words.
const TABLE: &str = "tests/suites/style/words.rs";

/// Words that leave the reader to find out what they stand for, and what to write instead.
const WORDS: [(&str, &str); 22] = [
    ("who", THE_ACTOR),
    ("whom", THE_ACTOR),
    ("whoever", THE_ACTOR),
    ("whomever", THE_ACTOR),
    ("somebody", THE_ACTOR),
    ("someone", THE_ACTOR),
    ("anybody", THE_ACTOR),
    ("anyone", THE_ACTOR),
    ("everybody", THE_ACTOR),
    ("everyone", THE_ACTOR),
    ("nobody", THE_ACTOR_DOES_NOT),
    ("no one", THE_ACTOR_DOES_NOT),
    ("lest", "so that … does not"),
    ("thrice", "three times"),
    (
        "meanwhile",
        "the event before which it happens: before the M parks",
    ),
    ("whence", "from where"),
    ("hence", "so"),
    ("thereof", "of it"),
    ("therein", "in it"),
    ("but for", "except"),
    ("for ever", "forever, or until what event"),
    ("of which", "a second sentence"),
];

const THE_ACTOR: &str = "the component: the M, the waiter, the poller, sysmon, the caller";
const THE_ACTOR_DOES_NOT: &str =
    "the component, and that it does not: no M waits, the poller has no waiter";

/// A human user may be "who" where the documentation speaks of users.
fn may_say(source: &Source, word: &str) -> bool {
    word == "who" && source.path.ends_with(".md")
}

pub(crate) fn words_are_plain(source: &Source) -> Vec<String> {
    if source.path == TABLE {
        return Vec::new();
    }
    // Each word of the text with its line, in lower case. Comment markers are not words.
    let words: Vec<_> = source
        .text
        .lines()
        .enumerate()
        .flat_map(|(i, line)| {
            let words = line.split_whitespace().filter(|word| !is_mark(word));
            words.map(move |word| (i + 1, word.to_lowercase()))
        })
        .collect();
    let mut found = Vec::new();
    for (i, (line, word)) in words.iter().enumerate() {
        let next = words.get(i + 1).map_or("", |(_, next)| next);
        for (banned, instead) in WORDS {
            let is_here = match banned.split_once(' ') {
                Some((first, second)) => {
                    ends_with_word(word, first) && starts_with_word(next, second)
                }
                None => pieces(word).any(|piece| piece == banned),
            };
            if is_here && !may_say(source, banned) {
                found.push(format!("line {line}: \"{banned}\"; write {instead}"));
            }
        }
    }
    found
}

fn is_mark(word: &str) -> bool {
    word.chars().all(|c| "/!#*|>".contains(c))
}

/// The words in a text without blanks. An identifier is one word.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
}

fn starts_with_word(text: &str, word: &str) -> bool {
    pieces(text).find(|piece| !piece.is_empty()) == Some(word)
}

fn ends_with_word(text: &str, word: &str) -> bool {
    pieces(text).last() == Some(word)
}
