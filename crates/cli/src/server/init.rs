//! `papertrader init`: writes a commented configuration with the keys it needs, and says what to do
//! with it.

use std::io::IsTerminal;
use std::path::Path;

use papertrader_client::Address;
use papertrader_core::time::WallTime;
use papertrader_node::clock::Clock;
use papertrader_node::config::load;
use papertrader_node::link::default_id;
use papertrader_node::openpgp::KeyProblem;
use papertrader_protocol::Fingerprint;

use super::identity::{OpenPgpSettings, PUBLIC, own_identity, write_new};
use super::settings::{MasterSettings, make_private_dir, toml_string, worker_user_id};
use super::{InitArgs, Role, ServerError, say};
use crate::hint;

/// The master's configuration with every key and its default.
pub(super) const MASTER: &str = include_str!("templates/master.toml");
/// A worker's configuration with every key and its default.
pub(super) const WORKER: &str = include_str!("templates/worker.toml");

/// What stands for the worker's UUID in its template.
const UUID: &str = "00000000-0000-0000-0000-000000000000";
/// What stands for the fingerprint of the master's certificate in it.
const FINGERPRINT: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// The longest name of a worker in the master's registry.
const LONGEST_NAME: usize = 32;
/// What stands for the master's address in it.
const ADDRESS: &str = "\"127.0.0.1:2048\"";

pub(super) fn init(args: &InitArgs) -> Result<(), ServerError> {
    match args.role {
        Role::Master => master(&args.dir),
        Role::Worker => worker(args),
    }
}

fn master(dir: &Path) -> Result<(), ServerError> {
    make_private_dir(dir)?;
    let file = dir.join("master.toml");
    write_new(&file, MASTER.as_bytes(), false)?;
    let settings: MasterSettings = load(Some(&file), "PAPERTRADER_MASTER_", ())?;
    // From wherever the operator's next command is typed.
    let data = std::path::absolute(settings.data(dir))?;
    make_private_dir(&data)?;
    let side = settings.side(dir)?;
    say(&format!("wrote {}, and keys in {}", file.display(), data.display()))?;
    say(&format!("start it with:\n  papertrader master --config {}", hint::path(&file)))?;
    say(&format!(
        "for each worker, on its machine (HOST is this one, NAME the worker's):\n\
         \x20 papertrader init worker DIR --name NAME --master HOST:{} --fingerprint {}",
        settings.listen.port(),
        side.fingerprint()
    ))?;
    say(&format!(
        "then here, with a copy of the key that it makes (ADDRESS is where the worker comes from):\n\
         \x20 papertrader admin workers add NAME --key {PUBLIC} --address ADDRESS --data {}",
        hint::path(&data)
    ))?;
    Ok(())
}

fn worker(args: &InitArgs) -> Result<(), ServerError> {
    let dir = &args.dir;
    let file = dir.join("worker.toml");
    if file.exists() {
        return Err(ServerError::Exists(file.display().to_string()));
    }
    check_name(&args.name)?;
    args.masters.iter().try_for_each(|master| check_address(master))?;
    let fingerprint = match &args.fingerprint {
        Some(text) => fingerprint(text)?,
        None => ask_fingerprint()?,
    };
    let identity = match &args.key {
        None => {
            make_private_dir(dir)?;
            own_identity(dir, &worker_user_id(&args.name))?
        }
        Some(key) => {
            let passphrase_file = args.passphrase_file.clone();
            let settings = OpenPgpSettings { key: Some(key.clone()), passphrase_file };
            let identity = settings.identity(Path::new("."), dir, "")?;
            let now = Clock::system(WallTime(0)).now();
            identity.usable(now).map_err(|problem| unusable(key, &problem))?;
            make_private_dir(dir)?;
            let text = identity.certificate().to_armored();
            write_new(&dir.join(PUBLIC), text.as_bytes(), true)?;
            identity
        }
    };
    let uuid = uuid::Uuid::from_bytes(default_id(identity.certificate()).0).to_string();
    let mut text = WORKER
        .replace(UUID, &uuid)
        .replace(FINGERPRINT, &fingerprint.to_string())
        .replace(ADDRESS, &addresses(&args.masters));
    let given = [
        ("key", &args.key, "# key = \"worker-secret.asc\"\n"),
        ("passphrase_file", &args.passphrase_file, "# passphrase_file = \"passphrase\"\n"),
    ];
    for (name, path, default) in given {
        if let Some(path) = path {
            let path = std::path::absolute(path)?;
            let line = format!("{name} = {}\n", toml_string(&path.display().to_string()));
            text = text.replacen(default, &line, 1);
        }
    }
    write_new(&file, text.as_bytes(), false)?;
    say(&format!(
        "wrote {}, and the worker's key in {}",
        file.display(),
        dir.join(PUBLIC).display()
    ))?;
    say(&format!(
        "on the master's machine, with a copy of {PUBLIC} (ADDRESS is where this worker comes from, \
         DATA the directory of keys that `init master` named):\n\
         \x20 papertrader admin workers add {} --key {PUBLIC} --address ADDRESS --data DATA",
        args.name
    ))?;
    say(&format!("then start it here with:\n  papertrader worker --config {}", hint::path(&file)))?;
    Ok(())
}

/// The master takes no other names.
fn check_name(name: &str) -> Result<(), ServerError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(fits) {
        return Ok(());
    }
    let problem = format!(
        "'{name}' cannot be a worker's name: choose 1 to {LONGEST_NAME} letters, digits, '-', '_' \
         and '.', without blanks"
    );
    Err(ServerError::Option { name: "--name", problem })
}

/// The worker connects to a host and a port.
fn check_address(master: &str) -> Result<(), ServerError> {
    match master.parse::<Address>() {
        // The link always has TLS.
        Ok(address) if !address.is_plain() => Ok(()),
        _ => Err(ServerError::Option {
            name: "--master",
            problem: format!(
                "'{master}' is not HOST:PORT: say the master's host and its port, such as \
                 master.example.org:2048 or [2001:db8::1]:2048"
            ),
        }),
    }
}

/// One address, or a list of them, in TOML.
fn addresses(masters: &[String]) -> String {
    let each: Vec<String> = masters.iter().map(|master| toml_string(master)).collect();
    match each.as_slice() {
        [only] => only.clone(),
        _ => format!("[{}]", each.join(", ")),
    }
}

fn unusable(key: &Path, problem: &KeyProblem) -> ServerError {
    let problem = format!(
        "{} cannot be used: {problem}; make another key, or mend this one (one that has expired: gpg \
         --quick-set-expire) and export it anew",
        key.display()
    );
    ServerError::Option { name: "--key", problem }
}

fn fingerprint(text: &str) -> Result<Fingerprint, ServerError> {
    let wrong = |error| ServerError::Option {
        name: "--fingerprint",
        problem: format!("is wrong: {error}"),
    };
    text.trim().parse().map_err(wrong)
}

fn ask_fingerprint() -> Result<Fingerprint, ServerError> {
    if !std::io::stdin().is_terminal() {
        let problem =
            "is missing: `papertrader admin status` on the master's machine says it".into();
        return Err(ServerError::Option { name: "--fingerprint", problem });
    }
    say(
        "`papertrader init master` printed it; `papertrader admin status` on the master's machine does.\n\
         Fingerprint of the master's certificate:",
    )?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    fingerprint(&line)
}

#[cfg(test)]
mod tests {
    use super::super::settings::{MasterSettings, WorkerSettings};
    use super::*;
    use papertrader_core::time::SECOND;
    use papertrader_node::config::load;
    use papertrader_node::openpgp::Identity;

    fn written(name: &str, text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    /// Takes the comment sign from every line that is a key.
    fn uncommented(template: &str) -> String {
        template
            .lines()
            .map(|line| match line.strip_prefix("#") {
                Some(key) if !key.starts_with(' ') => key,
                _ => line,
            })
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn the_templates_are_the_defaults() {
        let (_dir, path) = written("master.toml", &uncommented(MASTER));
        let all: MasterSettings = load(Some(&path), "PAPERTRADER_TEST_NONE_", ()).unwrap();
        assert_eq!(format!("{all:?}"), format!("{:?}", MasterSettings::default()));
    }

    #[test]
    fn the_template_of_a_worker_names_only_keys_that_exist() {
        let (_dir, path) = written("worker.toml", &uncommented(WORKER));
        let all: WorkerSettings = load(Some(&path), "PAPERTRADER_TEST_NONE_", ()).unwrap();
        let (_dir, path) = written("worker.toml", WORKER);
        let least: WorkerSettings = load(Some(&path), "PAPERTRADER_TEST_NONE_", ()).unwrap();
        assert_eq!(format!("{all:?}"), format!("{least:?}"));
    }

    fn args(role: Role, dir: &Path) -> InitArgs {
        InitArgs {
            role,
            dir: dir.to_owned(),
            masters: vec!["127.0.0.1:2048".into()],
            fingerprint: Some("ab".repeat(32)),
            name: "one".into(),
            key: None,
            passphrase_file: None,
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_is_written_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        for role in [Role::Master, Role::Worker] {
            init(&args(role, dir.path())).unwrap();
        }
        let secrets = [
            "master.toml",
            "worker.toml",
            "openpgp-secret.asc",
            "data/openpgp-secret.asc",
            "data/tls-key.pem",
        ];
        for name in secrets {
            let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_worker_is_what_its_key_says_and_knows_its_master() {
        let dir = tempfile::tempdir().unwrap();
        init(&args(Role::Worker, dir.path())).unwrap();
        let file = dir.path().join("worker.toml");
        let settings: WorkerSettings = load(Some(&file), "PAPERTRADER_TEST_NONE_", ()).unwrap();
        let config = settings.config(dir.path()).unwrap();
        assert_eq!(config.link.worker, default_id(config.link.identity.certificate()));
        assert_eq!(config.link.master, Fingerprint([0xab; 32]));
    }

    #[test]
    fn a_worker_may_know_several_masters() {
        let dir = tempfile::tempdir().unwrap();
        let masters = vec!["a.example.org:2048".to_owned(), "[2001:db8::1]:2048".to_owned()];
        let given = InitArgs { masters: masters.clone(), ..args(Role::Worker, dir.path()) };
        init(&given).unwrap();
        let file = dir.path().join("worker.toml");
        let settings: WorkerSettings = load(Some(&file), "PAPERTRADER_TEST_NONE_", ()).unwrap();
        assert_eq!(settings.config(dir.path()).unwrap().masters, masters);
    }

    #[test]
    fn what_the_master_would_refuse_is_refused_before_anything_is_written() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("worker");
        let good = args(Role::Worker, &dir);
        let refused = |args: InitArgs, option: &str| {
            let error = init(&args).unwrap_err();
            assert!(matches!(error, ServerError::Option { name, .. } if name == option), "{error}");
            assert!(!dir.exists(), "{error}");
            error.to_string()
        };
        let long = "x".repeat(LONGEST_NAME + 1);
        for name in ["", "a b", "a/b", "wörker", &long] {
            let said = refused(InitArgs { name: name.into(), ..good.clone() }, "--name");
            assert!(said.contains("letters, digits"), "{said}");
        }
        for master in ["master.example.org", "master:", "master:0", "::1", "tcp://master:2048", ""]
        {
            let said =
                refused(InitArgs { masters: vec![master.into()], ..good.clone() }, "--master");
            assert!(said.contains("master.example.org:2048"), "{said}");
        }
        let fingerprint = Some("ab".into());
        refused(InitArgs { fingerprint, ..good.clone() }, "--fingerprint");
        // Of a year to come, and so of no use now.
        let key = home.path().join("secret.asc");
        let identity = Identity::generate("a worker", WallTime(4_102_444_800 * SECOND)).unwrap();
        std::fs::write(&key, identity.to_armored_secret(None).unwrap()).unwrap();
        let said = refused(InitArgs { key: Some(key.clone()), ..good.clone() }, "--key");
        assert!(said.contains("secret.asc cannot be used"), "{said}");
        for (name, master) in [("a-B_c.9", "[2001:db8::1]:2048"), ("east", "localhost:1")] {
            let dir = home.path().join(name);
            init(&InitArgs {
                name: name.into(),
                masters: vec![master.into()],
                ..args(Role::Worker, &dir)
            })
            .unwrap();
        }
    }

    #[test]
    fn init_never_writes_over_a_file() {
        let dir = tempfile::tempdir().unwrap();
        for (role, name) in [(Role::Worker, "worker.toml"), (Role::Master, "master.toml")] {
            init(&args(role, dir.path())).unwrap();
            let first = std::fs::read(dir.path().join(name)).unwrap();
            let again = init(&args(role, dir.path()));
            assert!(matches!(again, Err(ServerError::Exists(_))));
            assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), first);
        }
    }
}
