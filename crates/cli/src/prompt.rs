//! Asks for a secret at the terminal, without echo.
//!
//! Invariant: the terminal is as it was before when this returns, whatever was typed. For that the
//! terminal sends no signal meanwhile: Ctrl-C arrives as a character, and ends the question.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

use rpassword::ConfigBuilder;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// What the terminal sends for Ctrl-C.
const CTRL_C: u8 = 0x03;

/// Asks at the terminal of this process, wherever its standard input comes from. Ctrl-C is
/// [`io::ErrorKind::Interrupted`].
pub(crate) fn secret(prompt: &str) -> io::Result<String> {
    ask(&OpenOptions::new().read(true).write(true).open("/dev/tty")?, prompt)
}

fn ask(terminal: &File, prompt: &str) -> io::Result<String> {
    // The terminal is quiet before it asks: what is typed at once is not shown either.
    let quiet = Quiet::new(terminal)?;
    let mut shown = terminal;
    shown.write_all(prompt.as_bytes())?;
    let keys = Keys(terminal.try_clone()?);
    let config = ConfigBuilder::new().input_reader(keys).output_discard().build();
    let typed = rpassword::read_password_with_config(config);
    drop(quiet);
    // The end of the line was not shown.
    shown.write_all(b"\n")?;
    typed
}

/// A terminal that shows nothing, hands over each key, and makes signals of none.
struct Quiet<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Quiet<'a> {
    fn new(terminal: &'a File) -> io::Result<Quiet<'a>> {
        let before = tcgetattr(terminal)?;
        let mut quiet = before.clone();
        quiet.local_modes -=
            LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG;
        tcsetattr(terminal, OptionalActions::Now, &quiet)?;
        Ok(Quiet { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

/// What is typed, up to Ctrl-C: at that one rpassword would end the process on the spot.
struct Keys(File);

impl Read for Keys {
    fn read(&mut self, keys: &mut [u8]) -> io::Result<usize> {
        let read = loop {
            match self.0.read(keys) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        if keys.iter().take(read).any(|key| *key == CTRL_C) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    /// What becomes of these keys, typed when the question is there.
    fn typing(keys: &[u8]) -> io::Result<String> {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&person).unwrap();
        unlockpt(&person).unwrap();
        let name = ptsname(&person, Vec::new()).unwrap().into_string().unwrap();
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        let terminal = rustix::fs::open(name, flags, rustix::fs::Mode::empty()).unwrap();
        let terminal = File::from(terminal);
        let before = tcgetattr(&terminal).unwrap();
        assert!(before.local_modes.contains(LocalModes::ECHO | LocalModes::ISIG));
        let mut person = File::from(person);
        let typed = std::thread::scope(|scope| {
            let asked = scope.spawn(|| ask(&terminal, "password: "));
            let mut seen = Vec::new();
            while !seen.ends_with(b": ") {
                let mut byte = [0];
                person.read_exact(&mut byte).unwrap();
                seen.extend(byte);
            }
            assert_eq!(seen, b"password: ");
            person.write_all(keys).unwrap();
            asked.join().unwrap()
        });
        let after = tcgetattr(&terminal).unwrap();
        assert_eq!(after.local_modes, before.local_modes);
        // What was typed is not shown.
        let mut shown = [0; 2];
        person.read_exact(&mut shown).unwrap();
        assert_eq!(&shown, b"\r\n");
        typed
    }

    #[test]
    fn the_terminal_is_as_before_whatever_was_typed() {
        assert_eq!(typing(b"secret\x7ft-pw\r").unwrap(), "secret-pw");
        assert_eq!(typing(b"half\x03").unwrap_err().kind(), io::ErrorKind::Interrupted);
        assert_eq!(typing(b"\x03").unwrap_err().kind(), io::ErrorKind::Interrupted);
        assert_eq!(typing(b"\x04").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
