//! Makes cargo look at the migrations and at the checked queries, which macros read unseen.

#![allow(clippy::print_stdout)] // That is how a build script speaks to cargo.

fn main() {
    for path in ["../../migrations", ".sqlx"] {
        println!("cargo:rerun-if-changed={path}");
    }
}
