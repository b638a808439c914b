//! Tests of how a timeline writes strings and times.

use super::*;

#[test]
fn strings_are_escaped_for_json() {
    assert_eq!(
        Escaped("a\"b\\c\n\u{1}d\u{e9}").to_string(),
        "a\\\"b\\\\c\\u000a\\u0001d\u{e9}"
    );
}

#[test]
fn times_are_microseconds_with_three_decimals() {
    for (nanos, text) in [
        (0, "0.000"),
        (999, "0.999"),
        (1_000_007, "1000.007"),
        (-5, "0.000"),
    ] {
        assert_eq!(Micros(nanos).to_string(), text);
    }
}
