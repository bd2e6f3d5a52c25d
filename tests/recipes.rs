//! Runs the recipes that need only a server and psql, from beginning to end. Also checks that the
//! docs show the files that are run. `make test-recipes` also runs the other recipes.

use std::path::Path;
use std::process::Command;

fn script(name: &str) -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/recipes").join(name))
}

fn passes(command: &mut Command) -> String {
    let output = command.output().expect("the script starts");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{said}", output.status);
    said
}

#[test]
fn the_recipes_show_the_files_that_are_run() {
    passes(&mut script("blocks.sh"));
}

#[test]
fn the_recipes_for_plain_sql_and_for_ci_lead_to_a_filled_column_that_is_not_null() {
    let said =
        passes(script("check.sh").args(["psql", "ci", "flyway"]).env("BACKFILLD", env!("CARGO_BIN_EXE_backfilld")));
    assert!(said.contains("recipes: 3 passed, 0 failed, 0 skipped") || said.contains("skipped: all recipes"), "{said}");
}
