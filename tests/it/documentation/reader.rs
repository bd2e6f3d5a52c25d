//! A shell in which the commands of a page run as a reader would run them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use backfilld_testbed::binaries::Binaries;
use backfilld_testbed::cluster::Cluster;
use backfilld_testbed::place::Place;
use backfilld_testbed::port::Port;

use super::page::Block;
use crate::support::{BACKFILLD, SOON};

/// A folder, a port for the daemon, and environment variables that tell clients how to connect to a
/// server.
pub struct Reader {
    place: Place,
    /// Keeps the port of the daemon reserved.
    _port: Port,
    variables: BTreeMap<String, String>,
}

impl Reader {
    /// Creates a shell in which psql and backfilld connect to `cluster` as `user`. Returns `None`
    /// if the installation of PostgreSQL has no psql.
    pub fn new(cluster: &Cluster, user: &str) -> Option<Self> {
        let binaries = Binaries::find().unwrap();
        if !binaries.has("psql") {
            eprintln!("skipped: {} has no psql", binaries.dir().display());
            return None;
        }
        let place = Place::of_test("page").unwrap();
        let port = Port::reserve().unwrap();
        let config = place.dir().join("backfilld.yaml");
        std::fs::write(&config, format!("http: {{listen: \"127.0.0.1:{}\"}}\n", port.number())).unwrap();
        let ours = Path::new(BACKFILLD).parent().unwrap();
        let path = format!("{}:{}:{}", ours.display(), binaries.dir().display(), std::env::var("PATH").unwrap());
        let variables = BTreeMap::from(
            [
                ("PATH", path),
                ("PGHOST", "127.0.0.1".to_owned()),
                ("PGPORT", cluster.port().to_string()),
                ("PGUSER", user.to_owned()),
                ("BACKFILLD_CONFIG", config.display().to_string()),
                ("HOME", place.dir().display().to_string()),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        Some(Self { place, _port: port, variables })
    }

    pub fn dir(&self) -> &Path {
        self.place.dir()
    }

    /// Runs a script that [`script`] returned, in bash and in the folder of this reader. Returns
    /// the output of each block. The script prints the line `@@` before each block.
    pub async fn run(&self, script: &str) -> Vec<String> {
        let file = self.place.dir().join("script");
        std::fs::write(&file, script).unwrap();
        let mut command = tokio::process::Command::new("bash");
        command.arg(&file).current_dir(self.place.dir()).env_clear().envs(&self.variables).stdin(Stdio::null());
        let output = tokio::time::timeout(SOON * 3, command.kill_on_drop(true).output())
            .await
            .expect("the script timed out")
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let log = std::fs::read_to_string(self.place.dir().join("backfilld.log")).unwrap_or_default();
        assert!(output.status.success(), "{}\n{text}\nlog of the daemon:\n{log}", output.status);
        text.split("@@\n").skip(1).map(str::to_owned).collect()
    }
}

/// The first lines of each script. They redirect the errors to the output, and terminate the
/// background processes (the daemon) when the script ends, whatever happens.
const PROLOGUE: &str = "exec 2>&1\ntrap 'jobs -p | xargs -r kill 2>/dev/null; wait' EXIT\n";

/// Returns a script that runs the blocks in order. It ends at the first command that fails, unless
/// the shell tests the command's exit code (`||`, `until`).
pub fn script(blocks: &[&Block]) -> String {
    let mut script = PROLOGUE.to_owned();
    for block in blocks {
        script.push_str("echo '@@'\n");
        match block.language.as_str() {
            "sql" => script
                .push_str(&format!("psql -X -v ON_ERROR_STOP=1 <<'END_OF_SQL' || exit\n{}END_OF_SQL\n", block.text)),
            _ => script.push_str(&format!("set -e\n{}set +e\n", block.text)),
        }
    }
    script
}
