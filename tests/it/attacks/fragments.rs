//! `set` and `filter` are fragments of SQL that become part of the daemon's statements. No fragment
//! may reach beyond its parentheses.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use tokio_postgres::Client;

use super::Scene;
use crate::support::{refused, run, value};

/// Pieces from which fragments are built. The server and `backfill._lex` might parse some of the
/// pieces differently. The other pieces are plain, because otherwise hardly any generated fragment
/// would be valid.
const PIECES: &[&str] = &[
    "'",
    "''",
    "\\",
    "\\'",
    "e'",
    "E'a",
    "U&'",
    "n'",
    "b'1'",
    "x'",
    "$$",
    "$x$",
    "$é$",
    "$",
    "x",
    "é",
    "😀",
    "a$b",
    "1$",
    " ",
    "\n",
    "\t",
    "\u{a0}",
    "\u{2003}",
    "\u{b}",
    "\u{c}",
    "\r",
    "--",
    "-",
    "/*",
    "*/",
    "*",
    "/",
    "(",
    ")",
    "[",
    "]",
    ";",
    ",",
    ") as z, (1",
    ";select 1",
    "1",
    "0x1",
    "1e",
    "1_0",
    ".",
    "+",
    "||",
    "\"",
    "\"q\"",
    "U&\"",
    "uescape '!'",
    "$1",
    ":",
    "::text",
    "select 1",
    "'a'",
    "$$b$$",
    "array[1]",
    "/* c */",
    "-- d\n",
    "e'\\''",
    "\n'",
    " 'b'",
    "null",
    "~",
    "@",
    "|/",
    "is null",
    "as z",
    "from t",
    "union select 1",
    "end",
];

/// Returns a description if a fragment reaches beyond its parentheses. This is the case if the
/// server finds a parameter, a second command, or columns other than the two that the test names.
async fn reaches_beyond(client: &Client, fragment: &str) -> Option<String> {
    match client.prepare(&format!("select (\n{fragment}\n) as backfill_one, 4711 as backfill_two")).await {
        Ok(statement) => {
            let names: Vec<&str> = statement.columns().iter().map(tokio_postgres::Column::name).collect();
            let inside = names == ["backfill_one", "backfill_two"] && statement.params().is_empty();
            (!inside).then(|| format!("{fragment:?}: {names:?}, {:?}", statement.params()))
        }
        Err(error) => {
            let text = error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned());
            text.contains("multiple commands").then(|| format!("{fragment:?}: {text}"))
        }
    }
}

async fn passes(client: &Client, fragment: &str) -> bool {
    client.query("select * from backfill._lex($1, 'set')", &[&fragment]).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_accepted_fragment_never_reaches_beyond_its_parentheses() {
    let scene = Scene::set().await;
    let client = scene.client("ctl").await;
    run(&client, "create temp table t (x int)").await;
    let cases = std::env::var("BACKFILLD_CASES").ok().map_or(4000, |text| text.parse().expect("BACKFILLD_CASES"));
    let made = proptest::collection::vec(proptest::sample::select(PIECES), 1..12);
    let mut runner = TestRunner::default();
    let (mut passed, mut beyond, mut open) = (0, Vec::new(), 0);
    for _ in 0..cases {
        let fragment = made.new_tree(&mut runner).expect("a tree").current().concat();
        let reached = reaches_beyond(&client, &fragment).await;
        open += u32::from(reached.is_some());
        if passes(&client, &fragment).await {
            passed += 1;
            beyond.extend(reached);
        }
    }
    assert_eq!(beyond, [] as [String; 0]);
    // The test proves nothing if `_lex` refuses every fragment, or if no generated fragment reaches
    // beyond its parentheses.
    assert!(
        passed > cases / 50 && open > 0,
        "{passed} passed, {open} would reach beyond their parentheses, of {cases}"
    );
}

#[tokio::test]
async fn code_that_the_server_executes_is_never_taken_for_a_string() {
    let scene = Scene::set().await;
    let client = scene.client("ctl").await;
    for (fragment, why) in [
        // If an escape string continues in quotes on the next line, escapes apply there too.
        ("e'x'\n'\\' || $1 || '", "continues in a second quoted part"),
        ("e'x' -- c\n '\\') ; drop table t --'", "continues in a second quoted part"),
        // Each character that is not ASCII, even an emoji or a no-break space, can be part of a
        // name. Dollar signs that follow such a character belong to the same name.
        ("😀$x$ ; drop table t $x$", "semicolon"),
        ("a😀$x$ ) as z, (1 $x$", "unmatched"),
        ("\u{a0}$x$ ; select 1 $x$", "semicolon"),
        ("1; drop table t", "semicolon"),
        ("1 /* ; */ ; drop table t", "semicolon"),
        ("1) as a, (2", "unmatched"),
        ("(1", "unclosed"),
        ("(1]", "unmatched"),
        ("1 /* a /* b */", "unterminated comment"),
        ("'it''s", "unterminated quote"),
        ("e'it\\'", "unterminated quote"),
        ("\"q", "unterminated quote"),
        ("$x$ a $y$", "unterminated quote"),
        ("$1", "parameter"),
        ("1 + $2::text::int", "parameter"),
    ] {
        let message = match client.query("select * from backfill._lex($1, 'filter')", &[&fragment]).await {
            Ok(rows) => panic!("passed as {} tokens: {fragment:?}", rows.len()),
            Err(error) => error.as_db_error().expect("an error of the server").message().to_owned(),
        };
        assert!(message.contains("filter") && message.contains(why), "{fragment:?}: {message}");
    }
    for fragment in
        ["e'it\\'s; (' || $q$;)$q$ || U&'\\0027;' -- ;)\n || \"a\".b[1] /* ; /* ) */ */", "a$1$b", "'a'\n'b;'", "é > 1"]
    {
        assert!(passes(&client, fragment).await, "{fragment}");
    }
}

#[tokio::test]
async fn invalid_bytes_and_overlong_texts_are_refused_at_enqueue() {
    let scene = Scene::set().await;
    scene.table("t", 1).await;
    let mallory = scene.client("mallory").await;
    for literal in [r"E'a = \'\xff\''", r"E'a = \'\000\''", r"convert_from('\x6100', 'UTF8')"] {
        let message = refused(&mallory, &format!("select backfill.enqueue('t', 't', {literal}, run_as => 'e')")).await;
        assert!(["22021", "BF001"].contains(&message.sqlstate.as_str()), "{literal}: {message:?}");
    }
    let nul = mallory.query("select backfill.enqueue('t', 't', $1, run_as => 'e')", &[&"a = '\0'"]).await;
    assert_eq!(nul.unwrap_err().code().map(tokio_postgres::error::SqlState::code), Some("22021"));
    for long in [
        "select backfill.enqueue('t', 't', 'a = 1' || repeat(' + 1', 20000), run_as => 'e')",
        "select backfill.enqueue('t', 't', 'a = 1', repeat('a is null or ', 6000) || 'true', run_as => 'e')",
        "insert into backfill.job (name, relation, target, set_sql, filter_sql, run_as) values ('t', 't'::regclass, 't', 'a = 1', repeat(' ', 70000) || 'true', 'e')",
        "insert into backfill.job (name, relation, target, set_sql, run_as, settings) values ('t', 't'::regclass, 't', 'a = 1', 'e', jsonb_build_object('search_path', repeat('x', 20000)))",
        "insert into backfill.job (name, relation, target, set_sql, run_as, key) values ('t', 't'::regclass, 't', 'a = 1', 'e', array_fill('id'::name, array[5000]))",
        "insert into backfill.command (verb, job_name, reason) values ('pause', 't', repeat('x', 5000))",
        "insert into backfill.command (verb, job_name, options) values ('tune', 't', jsonb_build_object('window', repeat('x', 20000)))",
    ] {
        assert_eq!(refused(&mallory, long).await.sqlstate, "BF001", "{long}");
    }
    assert_eq!(value::<i64>(&mallory, "select count(*) from backfill.jobs").await, 0);
}
