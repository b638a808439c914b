//! Does one operation for `ci/counts.sh`: `plain NAME`. Without a name it prints all names, each
//! with the number of operations that are counted.
//!
//! It does half of that number, again half, and then one and a half, and calls [`part_ends`] after
//! each part. Callgrind writes its counts there and begins anew. The second part and the third
//! differ by the number. What the runtime does only once is in the first.

use plain::{OPERATIONS, start};
use std::{env, hint};

#[inline(never)]
fn part_ends() {
    hint::black_box(());
}

fn main() {
    let Some(name) = env::args().nth(1) else {
        for operation in OPERATIONS {
            println!("{} {}", operation.0, operation.1);
        }
        return;
    };
    let mut operations = OPERATIONS.iter();
    let operation = operations.find(|operation| operation.0 == name);
    let operation = operation.expect("a name that `plain` prints");
    start();
    let (counted, f) = (operation.1, operation.2);
    for n in [counted / 2, counted / 2, counted / 2 + counted] {
        gopark::run(|| f(n));
        part_ends();
    }
}
