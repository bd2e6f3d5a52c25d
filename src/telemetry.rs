//! Writes logs to standard error, as text or as one JSON object per line.

use std::fmt::Debug;
use std::io::IsTerminal;
use std::sync::OnceLock;

use serde_json::{Map, Value};
use tracing::field::Field;
use tracing::{Event, Subscriber};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{JsonFields, Writer, debug_fn};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::{LookupSpan, Scope};
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::environment::Environment;
use crate::config::{Log, LogFormat, LogLevel};
use crate::error::{Error, Kind, Result};
use crate::text;

/// A function that replaces the current log filter with another one.
type SetFilter = Box<dyn Fn(EnvFilter) -> std::result::Result<(), reload::Error> + Send + Sync>;

/// The function that replaces the filter of the global subscriber. [`init`] stores the function
/// here.
static SET_FILTER: OnceLock<SetFilter> = OnceLock::new();

/// Starts logging. May be called only once per process. A filter in an environment variable takes
/// precedence over the level in the configuration. The filter is read from `BACKFILLD_LOG`, or from
/// `RUST_LOG` if `BACKFILLD_LOG` is not set. An example of a filter is
/// `info,backfilld::worker=debug`.
pub fn init(log: Log) -> Result<()> {
    let environment = |name: &str| std::env::var(name).ok();
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (subscriber, set_filter) = subscriber(log.format, filter(log.level, &environment)?, colours, std::io::stderr);
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|_| Error::new(Kind::Internal, "logging is already initialized in this process"))?;
    // This line could fail only if `init` was called a second time. In that case `init` has already
    // returned an error above.
    let _ = SET_FILTER.set(set_filter);
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Logs a panic as one line, with its location in the source.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("no message");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(location, backtrace = %std::backtrace::Backtrace::capture(), "panic: {message}");
}

/// Returns the environment variable that overrides the level in the configuration, if one is set.
pub fn overridden_by() -> Option<&'static str> {
    set_in(&|name| std::env::var(name).ok()).map(|(name, _)| name)
}

fn set_in(environment: Environment) -> Option<(&'static str, String)> {
    let set = |name| environment(name).filter(|text| !text.is_empty()).map(|text| (name, text));
    ["BACKFILLD_LOG", "RUST_LOG"].into_iter().find_map(set)
}

/// Changes the log level. The environment variables still take precedence, as in [`init`].
pub fn set_level(level: LogLevel) -> Result<()> {
    let filter = filter(level, &|name| std::env::var(name).ok())?;
    let Some(set_filter) = SET_FILTER.get() else { return Ok(()) };
    set_filter(filter).map_err(|error| Error::new(Kind::Internal, format!("log level: {error}")))
}

fn filter(level: LogLevel, environment: Environment) -> Result<EnvFilter> {
    if let Some((name, text)) = set_in(environment) {
        return EnvFilter::try_new(&text).map_err(|error| {
            Error::new(Kind::Config, format!("{name} is not a valid log filter: {error}"))
                .hint("Write a level, for example debug, or a list, for example info,backfilld::worker=debug.")
        });
    }
    // Levels below info apply only to this program. Otherwise its lines would be hard to find among
    // the lines of the libraries.
    let directives = match level {
        LogLevel::Debug | LogLevel::Trace => format!("info,backfilld={}", level.as_str()),
        LogLevel::Error | LogLevel::Warn | LogLevel::Info => level.as_str().to_owned(),
    };
    EnvFilter::try_new(directives).map_err(|error| Error::new(Kind::Internal, format!("log filter: {error}")))
}

/// Writes a field as text on the current line, with its control characters escaped. Without the
/// escapes, the message of a trigger or the reason that a user gives could forge a log line or move
/// the cursor of a terminal.
fn one_line(to: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> std::fmt::Result {
    let text = format!("{value:?}");
    let shown = text::printable(&text);
    if field.name() == "message" { write!(to, "{shown}") } else { write!(to, "{}={shown}", field.name()) }
}

fn subscriber<W>(
    format: LogFormat,
    filter: EnvFilter,
    colours: bool,
    writer: W,
) -> (Box<dyn Subscriber + Send + Sync>, SetFilter)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_ansi(colours).with_writer(writer);
    let filtered = Registry::default().with(filter);
    let subscriber: Box<dyn Subscriber + Send + Sync> = match format {
        // `compact` writes the fields of the spans after those of the event.
        LogFormat::Text => Box::new(filtered.with(lines.compact().fmt_fields(debug_fn(one_line).delimited(" ")))),
        LogFormat::Json => Box::new(filtered.with(lines.fmt_fields(JsonFields::new()).event_format(JsonLine))),
    };
    (subscriber, Box::new(move |filter| handle.reload(filter)))
}

/// Formats an event as one JSON object per line. The fields of the event and of its spans are on
/// the same level, so that `job.id` is at the same place in every line. The JSON format of
/// tracing-subscriber itself nests the fields of the spans.
struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> std::fmt::Result {
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let metadata = event.metadata();
        let mut line = Map::new();
        line.insert("timestamp".to_owned(), timestamp.into());
        line.insert("level".to_owned(), metadata.level().as_str().into());
        for span in ctx.event_scope().into_iter().flat_map(Scope::from_root) {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<N>>().map_or("", |fields| fields.fields.as_str());
            if let Ok(Value::Object(fields)) = serde_json::from_str(fields) {
                line.extend(fields);
            }
        }
        let mut fields = String::new();
        JsonFields::new().format_fields(Writer::new(&mut fields), event)?;
        if let Ok(Value::Object(fields)) = serde_json::from_str(&fields) {
            line.extend(fields);
        }
        line.insert("target".to_owned(), metadata.target().into());
        writeln!(to, "{}", Value::Object(line))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, level: LogLevel, env: &[(&str, &str)]) -> String {
        let lines = Lines::default();
        let lookup = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let writer = lines.clone();
        let (subscriber, _) = subscriber(format, filter(level, &lookup).unwrap(), false, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(job.id = 7, "job waits");
            tracing::debug!(target: "backfilld::walk", "bound found");
            tracing::debug!(target: "hyper", "connection accepted");
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_is_one_object_a_line_with_its_fields() {
        let text = logged(LogFormat::Json, LogLevel::Info, &[]);
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!((line["message"].as_str(), line["job.id"].as_i64()), (Some("job waits"), Some(7)));
        assert_eq!(line["level"], "WARN");
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn a_line_has_the_fields_of_its_spans_whatever_the_level() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let lines = Lines::default();
            let writer = lines.clone();
            let (subscriber, _) =
                subscriber(format, filter(LogLevel::Warn, &|_| None).unwrap(), false, move || writer.clone());
            tracing::subscriber::with_default(subscriber, || {
                let _database = tracing::error_span!("database", database.name = %"main").entered();
                let _job = tracing::error_span!("job", job.id = 7, job.name = %"j").entered();
                tracing::warn!(reason = "load", "job waits");
            });
            let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            if format == LogFormat::Json {
                let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
                assert_eq!(
                    (&line["database.name"], &line["job.id"], &line["job.name"]),
                    (&"main".into(), &7.into(), &"j".into())
                );
                assert_eq!((&line["reason"], &line["message"]), (&"load".into(), &"job waits".into()));
            } else {
                for field in ["job waits", "reason=\"load\"", "database.name=main", "job.id=7", "job.name=j"] {
                    assert!(text.contains(field), "{field}: {text}");
                }
            }
            assert_eq!(text.lines().count(), 1, "{text}");
        }
    }

    #[test]
    fn text_has_the_message_and_its_fields() {
        let text = logged(LogFormat::Text, LogLevel::Info, &[]);
        assert!(text.contains("job waits") && text.contains("job.id=7") && text.lines().count() == 1, "{text}");
    }

    #[test]
    fn untrusted_text_adds_no_lines_and_no_colors() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let lines = Lines::default();
            let writer = lines.clone();
            let (subscriber, _) =
                subscriber(format, filter(LogLevel::Info, &|_| None).unwrap(), false, move || writer.clone());
            tracing::subscriber::with_default(subscriber, || {
                let theirs = "no\n2026-01-01T00:00:00Z  INFO all is well \u{1b}[2J\r\u{9b}1m\u{202e}";
                tracing::warn!(error = %theirs, name = theirs, "holding: {theirs}");
            });
            let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            let raw = |c: char| c.is_control() || c == '\u{202e}';
            assert!(
                text.lines().count() == 1
                    && !text.trim_end_matches('\n').contains(|c| format == LogFormat::Text && raw(c)),
                "{text:?}"
            );
            assert!(!text.contains('\u{1b}'), "{text:?}");
        }
    }

    #[test]
    fn debug_logs_only_our_own_crate() {
        let text = logged(LogFormat::Text, LogLevel::Debug, &[]);
        assert!(text.contains("bound found") && !text.contains("connection accepted"), "{text}");
        assert!(logged(LogFormat::Text, LogLevel::Error, &[]).is_empty());
    }

    #[test]
    fn the_environment_takes_precedence_over_the_file() {
        let text = logged(LogFormat::Text, LogLevel::Error, &[("BACKFILLD_LOG", "hyper=debug"), ("RUST_LOG", "off")]);
        assert!(text.contains("connection accepted") && !text.contains("job waits"), "{text}");
        assert!(logged(LogFormat::Text, LogLevel::Error, &[("RUST_LOG", "warn")]).contains("job waits"));
    }

    #[test]
    fn the_level_changes_while_it_runs() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let (lines, none) = (Lines::default(), |_: &str| None);
            let writer = lines.clone();
            let (subscriber, set_filter) =
                subscriber(format, filter(LogLevel::Error, &none).unwrap(), false, move || writer.clone());
            tracing::subscriber::with_default(subscriber, || {
                tracing::warn!("before");
                set_filter(filter(LogLevel::Info, &none).unwrap()).unwrap();
                tracing::info!("after");
            });
            let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            assert!(text.contains("after") && !text.contains("before"), "{text}");
        }
    }

    #[test]
    fn an_invalid_filter_is_named() {
        let error = filter(LogLevel::Info, &|name| (name == "BACKFILLD_LOG").then(|| "a=b=c".to_owned())).unwrap_err();
        assert!(error.message.contains("BACKFILLD_LOG") && error.kind == Kind::Config, "{error}");
    }
}
