//! The commands of the documentation work as they are written. The tests run the tutorial from
//! beginning to end, and the first steps of the README and of the installation guide. They run the
//! SQL statements of the other pages on a real server. `backfilld` commands must be accepted, and
//! YAML blocks that configure backfilld must be valid. The Make targets, paths, Kubernetes names
//! and image versions that commands name must exist.

mod page;
mod reader;

use std::ffi::OsString;

use backfilld::cli::Cli;
use backfilld::config::Config;
use backfilld_testbed::cluster::{Cluster, Options};

use self::page::{Block, blocks, commands, inline_code, pages, parts, read, root, words};
use self::reader::{Reader, script};
use crate::support::{installed, run};

/// Returns the lines of an output without the parts that can differ from run to run: the width of
/// the columns, and the length of the line of dashes below the column names.
fn lines(text: &str) -> Vec<String> {
    let squeezed = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    let rules = squeezed.map(|line| if line.chars().all(|c| "-+".contains(c)) { "-".to_owned() } else { line });
    rules.filter(|line| !line.is_empty()).collect()
}

#[tokio::test]
async fn the_tutorial_runs_from_start_to_end_and_prints_what_it_shows() {
    let cluster = Cluster::with_owner(Options::default()).await;
    let Some(reader) = Reader::new(&cluster, "postgres") else { return };
    let page = blocks(&read("docs/tutorial.md"));
    let run: Vec<&Block> = page.iter().filter(|block| ["sh", "sql"].contains(&block.language.as_str())).collect();
    assert!(run.len() > 15, "{} blocks", run.len());
    let outputs = reader.run(&script(&run)).await;
    assert_eq!(outputs.len(), run.len(), "{outputs:?}");
    let mut shown = 0;
    for pair in page.windows(2) {
        let [block, expected] = pair else { unreachable!() };
        if expected.language != "text" {
            continue;
        }
        let at = run.iter().position(|other| *other == block).expect("an output stands below its command");
        let output = lines(&outputs[at]);
        for line in lines(&expected.text) {
            assert!(output.contains(&line), "line {}: \"{line}\" is not in\n{}", expected.line, outputs[at]);
        }
        shown += 1;
    }
    assert!(shown >= 4, "{shown} outputs");
}

/// Returns the first of a page's blocks that contains `text`.
fn block_with<'a>(blocks: &'a [Block], text: &str) -> &'a Block {
    blocks.iter().find(|block| block.text.contains(text)).unwrap_or_else(|| panic!("no block contains \"{text}\""))
}

fn shell(text: &str) -> Block {
    Block { language: "sh".to_owned(), text: text.to_owned(), line: 0 }
}

/// Returns the block with `url` instead of the example's database URL. `backfilld run` becomes a
/// daemon in the background, and the script continues when the daemon is ready.
fn on_server(block: &Block, url: &str) -> Block {
    let text = block.text.replace("postgres://app_owner@db.internal/app", url);
    let wait = "until backfilld probe readyz; do sleep 0.2; done";
    let start = format!("backfilld run > backfilld.log 2>&1 &\n{wait}\n");
    let lines = text
        .lines()
        .map(|line| if line.trim_start().starts_with("backfilld run") { start.clone() } else { format!("{line}\n") });
    Block { text: lines.collect(), ..block.clone() }
}

/// Creates the tables of the examples in the README and on other pages. The role that runs these
/// statements owns the tables.
const TABLES: &str = "
create table orders (id bigint generated always as identity primary key, total numeric not null, total_cents bigint);
insert into orders (total) select n / 100.0 from generate_series(1, 5000) n;
create table sessions (id int primary key, seen_at timestamptz not null default '2025-06-01');
insert into sessions select generate_series(1, 100);
create table invoices (id int primary key, amount numeric, cents bigint);";

#[tokio::test]
async fn the_installation_guide_and_the_readme_lead_to_a_finished_job() {
    let cluster = Cluster::with_owner(Options::default()).await;
    cluster.create_role("app_owner", "login").await;
    run(&cluster.superuser("app").await, "grant create on schema public to app_owner").await;
    run(&cluster.client("app_owner", "app").await, TABLES).await;
    let Some(reader) = Reader::new(&cluster, "postgres") else { return };
    std::fs::write(reader.dir().join("deploy.sh"), "#!/bin/sh\necho deployed\n").unwrap();
    let url = cluster.url("app_owner", "app");
    let (install, readme) = (blocks(&read("docs/install.md")), blocks(&read("README.md")));
    let steps = [
        shell("export PGDATABASE=app\nchmod +x deploy.sh\n"),
        block_with(&install, "create role backfill_reader").clone(),
        on_server(block_with(&install, "backfilld probe readyz"), &url),
        on_server(block_with(&readme, "backfilld wait"), &url),
        on_server(block_with(&readme, "backfilld preview"), &url),
        shell("backfilld wait old_sessions --timeout 1m\n"),
    ];
    let outputs = reader.run(&script(&steps.iter().collect::<Vec<_>>())).await;
    let text = outputs.concat();
    assert!(text.contains("deployed") && text.contains("schema backfill installed"), "{text}");
    assert!(text.contains("job \"old_sessions\" succeeded: 100 rows deleted"), "{text}");

    // Run the first commands of the README on a new database. `doctor` fails there, because the
    // schema is not installed yet, so the test ignores its exit code.
    let cluster = Cluster::with_owner(Options::default()).await;
    cluster.create_role("app_owner", "login").await;
    run(&cluster.superuser("app").await, "grant create on database app to app_owner").await;
    let Some(reader) = Reader::new(&cluster, "app_owner") else { return };
    let block = on_server(block_with(&readme, "backfilld doctor "), &cluster.url("app_owner", "app"));
    let block = Block { text: block.text.replace("backfilld doctor", "backfilld doctor || true # "), ..block };
    reader.run(&script(&[&block])).await;
}

#[tokio::test]
async fn the_files_that_the_systemd_commands_install_exist() {
    let block = blocks(&read("docs/install.md"));
    let block = block_with(&block, "systemctl daemon-reload");
    let lines: Vec<&str> = block.text.lines().filter(|line| line.starts_with("install ")).collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    let cluster = Cluster::with_owner(Options::default()).await;
    let Some(reader) = Reader::new(&cluster, "postgres") else { return };
    let etc = reader.dir().join("etc");
    std::fs::create_dir_all(etc.join("systemd/system")).unwrap();
    let text =
        format!("cd '{}'\n{}\n", root().display(), lines.join("\n").replace(" /etc/", &format!(" {}/", etc.display())));
    reader.run(&script(&[&shell(&text)])).await;
    assert!(etc.join("systemd/system/backfilld.service").is_file() && etc.join("backfilld/backfilld.yaml").is_file());
    assert!(std::fs::read_to_string(etc.join("backfilld/database-url")).unwrap().starts_with("postgres://"));
}

/// Returns the SQL statements of a page, from blocks and from inline code. Inline code counts only
/// if it is a query or a call and contains no `...`. Other inline code, such as `create index`,
/// only names a command. The block that creates the roles is left out, because another test runs
/// it.
fn statements(page: &str) -> Vec<String> {
    let starts_with = |text: &str, verbs: &[&str]| verbs.iter().any(|verb| text.starts_with(verb));
    let text = read(page);
    let mut found = Vec::new();
    for block in blocks(&text) {
        match block.language.as_str() {
            "sql" if !block.text.contains("create role backfill_reader") => found.push(block.text.clone()),
            "" => {
                let verbs = [
                    "select ", "create ", "grant ", "call ", "alter ", "update ", "insert ", "delete ", "drop ",
                    "revoke ", "with ", "set ", "begin",
                ];
                found.extend(Some(block.text).filter(|text| starts_with(text, &verbs)));
            }
            _ => {}
        }
    }
    let whole = |code: &String| starts_with(code, &["select ", "call backfill."]) && !code.contains("...");
    found.extend(inline_code(&text).into_iter().filter(whole));
    found
}

/// Returns the statement that brings a job into a state in which `statement` is allowed, or an
/// empty string if none is needed.
fn before(statement: &str) -> String {
    let name = statement.split('\'').nth(1).unwrap_or_default();
    let verb = |verb: &str| statement.contains(&format!("backfill.{verb}("));
    if verb("retry") || verb("forget") || verb("rerun") {
        format!("select backfill.cancel('{name}');")
    } else if verb("resume") {
        format!("select backfill.pause('{name}');")
    } else if verb("approve") {
        "update backfill.job set needs_approval = true;".to_owned()
    } else {
        String::new()
    }
}

#[tokio::test]
async fn each_sql_statement_of_the_pages_runs() {
    let cluster = installed(Options::default()).await;
    cluster.create_role("app_owner", "login").await;
    let owner = cluster.owner().await;
    run(&owner, TABLES).await;
    run(&owner, "select backfill.enqueue(job, 'orders', 'total_cents = round(total * 100)', 'total_cents is null') from unnest(array['JOB', 'OTHER', 'name']) job")
        .await;
    run(&owner, r#"select backfill.rollout_start('{"rollout": "ROLLOUT", "table": "invoices", "add_column": {"name": "z", "type": "int"}}')"#).await;
    let client = cluster.superuser("app").await;
    run(&client, "select pg_create_physical_replication_slot('slot')").await;
    let mut tried = 0;
    let mut failures = Vec::new();
    // The tutorial and the recipes are run by their own tests.
    for page in pages().iter().filter(|page| *page != "docs/tutorial.md" && !page.starts_with("docs/recipes")) {
        for statement in statements(page) {
            let text = statement.replace("'SLOT'", "'slot'").replace("PID", "pg_backend_pid()");
            let result = client.batch_execute(&format!("begin; {} {text}", before(&statement))).await;
            client.batch_execute("rollback").await.unwrap();
            if text.contains("pg_drop_replication_slot") {
                run(&client, "select pg_create_physical_replication_slot('slot')").await;
            }
            tried += 1;
            // A statement for a replica fails because this server is not in recovery, and
            // `assert_complete` fails because the jobs are unfinished.
            let expected = if text.contains("assert_complete") {
                "is not complete"
            } else if text.contains("pg_wal_replay_resume") || text.contains("pg_is_wal_replay_paused") {
                "recovery is not in progress"
            } else {
                ""
            };
            match result.map_err(|error| backfilld_testbed::server::describe(&error)) {
                Err(error) if !expected.is_empty() && error.contains(expected) => {}
                Err(error) => failures.push(format!("{page}: {statement}\n    {error}")),
                Ok(()) if expected.is_empty() => {}
                Ok(()) => failures.push(format!("{page}: {statement}\n    succeeded, but \"{expected}\" is expected")),
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(tried > 50, "{tried} statements");
}

/// Returns the arguments of each `backfilld` command in these lines.
fn invocations(lines: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for words in lines.iter().flat_map(|line| parts(line)) {
        // In a container or a pod, the command follows the arguments of docker or kubectl.
        let is_program = |word: &String| word == "/usr/local/bin/backfilld" || word.starts_with("backfilld:");
        let at = match words[0].as_str() {
            "backfilld" => Some(0),
            "until" => words.iter().position(|word| word == "backfilld"),
            "docker" | "kubectl" => words.iter().rposition(is_program),
            _ => None,
        };
        let Some(at) = at else { continue };
        let arguments: Vec<String> = words[at + 1..].to_vec();
        // In `docker build ... backfilld:0.3.0 .`, the word `backfilld` is part of an image's name.
        // Commands with shell variables are skipped, because the variables have no values here.
        let is_known = arguments.iter().all(|argument| !argument.starts_with('$'));
        if is_known && !arguments.is_empty() && arguments[0] != "." && words.get(1).is_none_or(|verb| verb != "build") {
            found.push(arguments);
        }
    }
    found
}

#[test]
fn each_backfilld_command_of_the_pages_is_accepted() {
    let line = |arguments: &[String]| -> Vec<OsString> {
        std::iter::once("backfilld".into()).chain(arguments.iter().map(OsString::from)).collect()
    };
    let mut tried = 0;
    let mut refused = Vec::new();
    for page in pages() {
        let text = read(&page);
        let shell = |block: &&Block| matches!(block.language.as_str(), "" | "sh" | "bash");
        let in_blocks: Vec<String> = blocks(&text).iter().filter(shell).flat_map(commands).collect();
        for (lines, is_block) in [(in_blocks, true), (inline_code(&text), false)] {
            for arguments in invocations(&lines) {
                let error = Cli::read(line(&arguments)).err().map(|answer| format!("{answer:?}"));
                // Outside code blocks, a page may name a command and omit the required arguments.
                // The command only has to exist.
                let error = error.filter(|text| {
                    let incomplete = !is_block && text.contains("required arguments were not provided");
                    let help = Cli::read(line(&[arguments[0].clone(), "--help".to_owned()]));
                    let help = help.err().map(|answer| format!("{answer:?}"));
                    !incomplete || help.is_none_or(|text| text.contains("is_error: true"))
                });
                tried += 1;
                refused.extend(error.map(|error| format!("{page}: backfilld {}\n    {error}", arguments.join(" "))));
            }
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    assert!(tried > 60, "{tried} commands");
}

#[test]
fn each_yaml_block_of_the_pages_is_a_valid_configuration() {
    let mut tried = 0;
    for page in pages() {
        for block in blocks(&read(&page)) {
            let first = block.text.lines().next().unwrap_or_default();
            let indent = first.len() - first.trim_start().len();
            let dedented = block.text.lines().map(|line| line.get(indent..).unwrap_or_default());
            let text = match first.trim_start().split(':').next().unwrap_or_default() {
                "databases" | "http" | "log" | "lease" | "defaults" | "retention" | "shutdown" => block.text.clone(),
                "replicas" | "signals" => {
                    let inner = dedented.map(|line| format!("    {line}\n")).collect::<String>();
                    format!("databases:\n  - name: main\n    url: postgres://x\n{inner}")
                }
                _ => continue,
            };
            let config: Result<Config, _> = backfilld::yaml::parse(&text, &page);
            assert!(config.is_ok(), "{page}:{}: {:?}\n{text}", block.line, config.err());
            tried += 1;
        }
    }
    assert!(tried >= 4, "{tried} blocks");
}

#[test]
fn each_make_target_and_each_path_in_a_command_exists() {
    let makefile = read("Makefile");
    let mut tried = 0;
    for page in pages() {
        let text = read(&page);
        let all = blocks(&text).iter().flat_map(commands).chain(inline_code(&text)).collect::<Vec<_>>();
        for command in all {
            let words = words(&command);
            if words.first().is_some_and(|word| word == "make") {
                for target in words.iter().skip(1).filter(|word| !word.contains('=')) {
                    assert!(makefile.lines().any(|line| line.starts_with(&format!("{target}:"))), "{page}: {command}");
                    tried += 1;
                }
                for part in words.iter().filter_map(|word| word.strip_prefix("PARTS=")).flat_map(str::split_whitespace)
                {
                    let script = root().join(format!("scripts/deploy/{part}.sh"));
                    assert!(script.exists(), "{page}: {command}: there is no part {part}");
                }
            }
            let ours = |word: &&String| {
                ["deploy/", "scripts/", "examples/", "config/", "tests/", "benches/"]
                    .iter()
                    .any(|folder| word.starts_with(folder))
                    && !word.contains(['*', '$', ',', '<', ':'])
            };
            for path in words.iter().filter(ours) {
                // kubectl addresses a Deployment as deploy/NAME.
                if path.as_str() == "deploy/backfilld" {
                    continue;
                }
                assert!(root().join(path).exists(), "{page}: {path}");
                tried += 1;
            }
        }
    }
    assert!(tried > 60, "{tried} targets and paths");
}

/// Returns each value that follows `key: ` on a line of the Kubernetes manifests.
fn in_manifests(key: &str) -> Vec<String> {
    fn visit(folder: &std::path::Path, found: &mut Vec<String>) {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                visit(&path, found);
            } else {
                found.push(std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut texts = Vec::new();
    visit(&root().join("deploy/kubernetes"), &mut texts);
    let prefix = format!("{key}: ");
    let lines = texts.iter().flat_map(|text| text.lines());
    lines.filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix(&prefix).map(str::to_owned)).collect()
}

#[test]
fn each_name_in_a_kubectl_command_is_in_the_manifests_and_each_version_is_the_current_one() {
    let (names, namespaces) = (in_manifests("name"), in_manifests("namespace"));
    let mut tried = 0;
    for page in pages() {
        let text = read(&page);
        for command in blocks(&text).iter().flat_map(commands).chain(inline_code(&text)) {
            let words = words(&command);
            for (image, _) in command.match_indices("backfilld:") {
                let version = command[image + "backfilld:".len()..].split(' ').next().unwrap_or_default();
                if version.starts_with(|digit: char| digit.is_ascii_digit()) {
                    assert_eq!(version, env!("CARGO_PKG_VERSION"), "{page}: {command}");
                    tried += 1;
                }
            }
            if words.first().is_none_or(|word| word != "kubectl") {
                continue;
            }
            for pair in words.windows(2).filter(|pair| pair[0] == "-n") {
                assert!(namespaces.contains(&pair[1]), "{page}: {command}: namespace");
                tried += 1;
            }
            for word in &words {
                let Some((kind, name)) = word.split_once('/') else { continue };
                if ["deploy", "deployment", "job", "secret"].contains(&kind) && !name.contains('/') {
                    assert!(names.iter().any(|known| known == name), "{page}: {command}: {word}");
                    tried += 1;
                }
            }
        }
    }
    assert!(tried >= 15, "{tried} names and versions");
}
