//! Does one operation for `ci/counts.sh`: `plain NAME N1 N2`. Without arguments it prints the names.
//!
//! It does `N1` operations, again `N1`, and `N2`, with a call of [`part_ends`] after each. Callgrind
//! writes its counts there and begins anew. The second part and the third differ by `N2 - N1`
//! operations. What the runtime does only once is in the first.

use plain::{OPERATIONS, start};
use std::{env, hint};

#[inline(never)]
fn part_ends() {
    hint::black_box(());
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [name, n1, n2] = arguments.as_slice() else {
        for operation in OPERATIONS {
            println!("{}", operation.0);
        }
        return;
    };
    let operation = OPERATIONS.iter().find(|operation| operation.0 == name);
    let operation = operation.expect("a name that `plain` prints").1;
    start();
    for n in [n1, n1, n2] {
        let n = n.parse().unwrap();
        gopark::run(|| operation(n));
        part_ends();
    }
}
