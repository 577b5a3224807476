//! Tells by mail: hands each message to sendmail, which queues and sends it.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use distcifs_settings::notify::is_address;

use super::news::News;
use super::{Outcome, Teller};
use crate::aside;

/// Longest time for one message, to all whom it goes to.
const SEND_TIME: Duration = Duration::from_secs(60);

/// Between two looks whether the worker is to end.
const LOOK: Duration = Duration::from_millis(200);

/// Bytes of what sendmail says that the log shows.
const SAID_BYTES_MAX: usize = 300;

/// Statuses of sendmail (sysexits.h) that no later try changes: EX_USAGE, EX_DATAERR, EX_NOINPUT, EX_NOUSER.
const FINAL: [i32; 4] = [64, 65, 66, 67];

/// Characters of a subject: with `Subject: ` in front it is a line of RFC 5322.
const SUBJECT_CHARS_MAX: usize = 900;

/// How mail is sent.
#[derive(Debug)]
pub struct Mail {
    /// The program.
    pub sendmail: PathBuf,
    /// Whom it is from.
    pub from: String,
    /// Domains that it may go to; none: any.
    pub domains: Vec<String>,
    /// Where a build can be seen, with `{job}` and `{build}`.
    pub target_url: Option<String>,
}

impl Teller for Mail {
    const NAME: &'static str = "notify-mail";
    const LABEL: &'static str = "mail";

    /// All by the same program.
    fn whom(&self, _news: &News) -> String {
        "sendmail".to_owned()
    }

    /// One bad address is no reason that the others are not told: each of those is told alone then.
    fn tell(&self, news: &News) -> Outcome {
        let (to, refused): (Vec<String>, Vec<String>) = news
            .list("to")
            .into_iter()
            .partition(|address| self.may_go(address).is_ok());
        let refused: Vec<(String, String)> = refused
            .into_iter()
            .filter_map(|address| {
                let why = self.may_go(&address).err()?;
                Some((address, why))
            })
            .collect();
        if to.is_empty() {
            let all: Vec<String> = refused.into_iter().map(|(_, why)| why).collect();
            return Outcome::Never(format!("it goes to nobody: {}", all.join("; ")));
        }
        for (address, why) in refused {
            give_up(news, &address, &why);
        }
        let until = Instant::now() + SEND_TIME;
        let message = self.message(news, &to);
        let left: Vec<String> = to.into_iter().filter(|address| !news.is_settled(address)).collect();
        let ended = match (left.len(), self.hand_over(&left, &message, until)) {
            (2.., Outcome::Never(_)) => self.tell_each(news, &left, &message, until),
            (_, ended) => ended,
        };
        match ended {
            // Somebody was told before: of this one the log says that it was given up.
            Outcome::Never(why) if news.was_told() => {
                left.iter().for_each(|address| give_up(news, address, &why));
                Outcome::Told
            }
            ended => ended,
        }
    }
}

/// Gives one address of several up, and says so, once.
fn give_up(news: &News, address: &str, why: &str) {
    if !news.is_settled(address) {
        eprintln!("{}: {}: {address:?} is given up: {why}", Mail::NAME, news.id);
        news.settle(address, false);
    }
}

impl Mail {
    /// Tells each alone, and notes who needs no other try; `Later` if somebody does.
    fn tell_each(&self, news: &News, to: &[String], message: &str, until: Instant) -> Outcome {
        let (mut later, mut never) = (None, None);
        for address in to {
            match self.hand_over(std::slice::from_ref(address), message, until) {
                Outcome::Told => news.settle(address, true),
                Outcome::Never(why) => {
                    give_up(news, address, &why);
                    never = Some(format!("{address}: {why}"));
                }
                Outcome::Later(why, after) => later = Some(Outcome::Later(format!("{address}: {why}"), after)),
            }
        }
        match (later, never) {
            (Some(later), _) => later,
            // Each has its line in the log; this is the last of them.
            (None, Some(why)) if !news.was_told() => Outcome::Never(format!("nobody could be told: {why}")),
            (None, _) => Outcome::Told,
        }
    }

    /// Hands a message for these to sendmail; what its status means.
    fn hand_over(&self, to: &[String], message: &str, until: Instant) -> Outcome {
        if Instant::now() > until {
            return Outcome::Later("no time was left for it".into(), None);
        }
        match self.send(to, message.as_bytes(), until) {
            Ok((status, _)) if status.success() => Outcome::Told,
            Ok((status, said)) => {
                let why = format!("{}: {status}: {said}", self.sendmail.display());
                match status.code() {
                    Some(code) if FINAL.contains(&code) => Outcome::Never(why),
                    _ => Outcome::Later(why, None),
                }
            }
            Err(error) => Outcome::Later(format!("{}: {error}", self.sendmail.display()), None),
        }
    }

    /// Whether mail may go to this address; why not.
    fn may_go(&self, address: &str) -> Result<(), String> {
        let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
        if !is_address(address) {
            return Err(format!("{address:?} is no plain address"));
        }
        let known = |allowed: &String| allowed.eq_ignore_ascii_case(domain);
        if !self.domains.is_empty() && !self.domains.iter().any(known) {
            return Err(format!("{address}: --domain does not let mail go there"));
        }
        Ok(())
    }

    /// The message. Each header is of one line of printable ASCII, whatever it was made of.
    fn message(&self, news: &News, to: &[String]) -> String {
        let host = self.from.rsplit_once('@').map_or("localhost", |(_, domain)| domain);
        let subject: String = header(&format!("[{}] {}", host, news.title()))
            .chars()
            .take(SUBJECT_CHARS_MAX)
            .collect();
        let mut text = String::new();
        let mut put = |name: &str, value: &str| {
            // Writing to a string can't fail.
            let _ = writeln!(text, "{name}: {value}");
        };
        put("From", &format!("distcifs <{}>", self.from));
        put("To", &to.join(",\n "));
        put("Subject", &subject);
        put("Date", &date(jiff::Timestamp::now()));
        // Whoever gets it twice can tell.
        put("Message-ID", &format!("<{}@{host}>", header(&news.id)));
        put("Auto-Submitted", "auto-generated");
        put("MIME-Version", "1.0");
        put("Content-Type", "text/plain; charset=utf-8");
        put("Content-Transfer-Encoding", "8bit");
        text + "\n" + &self.body(news)
    }

    fn body(&self, news: &News) -> String {
        let mut text = format!("{}\n\n", news.title());
        let names = [
            "why", "failed", "event", "ref", "commit", "base", "trust", "senders", "cause", "before",
        ];
        for name in names {
            let value = match name {
                "failed" | "senders" => news.list(name).join(", "),
                _ => news.text(name),
            };
            // What is trusted goes without saying.
            if value.is_empty() || (name == "trust" && value == "trusted") {
                continue;
            }
            // A line has at most 998 bytes; a letter has at most four.
            let value: String = value.chars().take(220).collect();
            let _ = writeln!(text, "{name}: {value}");
        }
        if news.text("state") == "held" {
            let _ = writeln!(
                text,
                "\nWhoever may write jobs/{}/builds/{}/approve approves it.",
                news.text("job"),
                news.text("build")
            );
        }
        if let Some(url) = news.target(self.target_url.as_deref()) {
            let _ = writeln!(text, "\n{url}");
        }
        text
    }

    /// Hands a message to sendmail, which may take until then; its status, and what it said.
    fn send(&self, to: &[String], message: &[u8], until: Instant) -> std::io::Result<(ExitStatus, String)> {
        let mut command = Command::new(&self.sendmail);
        // A line with a dot alone ends nothing.
        command.args(["-i", "-f", &self.from]).args(to);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (mut input, errors) = (child.stdin.take(), child.stderr.take());
        let message = message.to_vec();
        // Each on a thread of its own: a program that reads nothing, or says much, holds up nobody.
        thread::spawn(move || input.take().map(|mut input| input.write_all(&message)));
        let said = thread::spawn(move || {
            let mut said = Vec::new();
            if let Some(mut errors) = errors {
                let mut some = [0; 4096];
                while let Ok(count @ 1..) = errors.read(&mut some) {
                    let room = SAID_BYTES_MAX.saturating_sub(said.len());
                    said.extend(some.iter().take(count.min(room)));
                }
            }
            String::from_utf8_lossy(&said).escape_debug().to_string()
        });
        let status = ends(&mut child, until)?;
        // What it left running may hold its standard error.
        let begun = Instant::now();
        while !said.is_finished() && begun.elapsed() < Duration::from_secs(1) {
            thread::sleep(Duration::from_millis(5));
        }
        let said = if said.is_finished() {
            said.join().unwrap_or_default()
        } else {
            String::new()
        };
        Ok((status, said))
    }
}

/// Waits for a child, and ends it when its time is over.
fn ends(child: &mut Child, until: Instant) -> std::io::Result<ExitStatus> {
    while Instant::now() < until && !crate::signals::stopping() {
        if let Some(status) = aside::ended(child, until.min(Instant::now() + LOOK))? {
            return Ok(status);
        }
    }
    child.kill()?;
    child.wait()
}

/// A text that can stand in a header: what is no printable ASCII becomes `?`, and no line ends.
fn header(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    text.chars().map(plain).collect()
}

/// A time as mail has it.
fn date(at: jiff::Timestamp) -> String {
    jiff::fmt::rfc2822::DateTimePrinter::new()
        .timestamp_to_string(&at)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::news;
    use super::*;
    use serde_json::{Value, json};

    fn mail(sendmail: &str) -> Mail {
        Mail {
            sendmail: sendmail.into(),
            from: "ci@example.org".into(),
            domains: Vec::new(),
            target_url: Some("https://ci.example.org/{job}/{build}".into()),
        }
    }

    fn failed(with: Value) -> News {
        let mut params = json!({
            "job": "hello", "build": 7, "state": "failure", "events": ["failure", "changed"], "why": "task 0 failed",
            "to": ["a@example.org", "b@example.org"], "triggered": 5000, "ref": "refs/heads/main", "trust": "trusted",
        });
        params
            .as_object_mut()
            .unwrap()
            .extend(with.as_object().unwrap().clone());
        news(params)
    }

    /// "Header injection is impossible": whatever a text has in it, the headers are these, and each is one line.
    #[test]
    fn headers_are_ours_whatever_is_told() {
        let hostile = "x\r\nBcc: evil@example.org\r\n\r\n<b>\u{85}\u{2028}Subject: y\u{0}\u{1b}]0;ü";
        let names = [
            "From",
            "To",
            "Subject",
            "Date",
            "Message-ID",
            "Auto-Submitted",
            "MIME-Version",
            "Content-Type",
            "Content-Transfer-Encoding",
        ];
        for name in ["why", "ref", "cause", "state"] {
            let told = failed(json!({ name: hostile, "events": [hostile], "failed": [hostile] }));
            let message = mail("true").message(&told, &told.list("to"));
            assert!(!message.contains('\r'));
            let (headers, body) = message.split_once("\n\n").unwrap();
            let found: Vec<&str> = headers
                .lines()
                .filter(|line| !line.starts_with(' '))
                .map(|line| line.split_once(':').unwrap().0)
                .collect();
            assert_eq!(found, names, "{name}");
            assert!(
                headers.chars().all(|c| c == '\n' || c == ' ' || c.is_ascii_graphic()),
                "{headers:?}"
            );
            assert!(
                body.lines().all(|line| !line.starts_with("Bcc:") && line.len() <= 998),
                "{body}"
            );
        }
        let told = failed(json!({}));
        let message = mail("true").message(&told, &told.list("to"));
        assert!(
            message.contains("Subject: [example.org] hello/7: failure (changed)\n"),
            "{message}"
        );
        assert!(
            message.contains("\nwhy: task 0 failed\nref: refs/heads/main\n"),
            "{message}"
        );
        assert!(
            message.contains("https://ci.example.org/hello/7\n") && !message.contains("trusted"),
            "{message}"
        );
    }

    /// "Who sends says where mail may go", and what is no plain address goes nowhere.
    #[test]
    fn mail_goes_where_it_may() {
        let mut mail = mail("true");
        assert_eq!(mail.tell(&failed(json!({}))), Outcome::Told);
        for to in [
            json!([]),
            json!(["-oQ@example.org"]),
            json!(["a@example.org\nb@example.org", "b"]),
            json!("a@example.org"),
        ] {
            assert!(
                matches!(mail.tell(&failed(json!({ "to": to }))), Outcome::Never(_)),
                "{to}"
            );
        }
        mail.domains = vec!["EXAMPLE.org".into()];
        assert_eq!(mail.tell(&failed(json!({}))), Outcome::Told);
        let elsewhere = mail.tell(&failed(json!({"to": ["b@evil.example.org"]})));
        assert!(matches!(elsewhere, Outcome::Never(why) if why.contains("b@evil.example.org")));
    }

    /// "One bad address keeps no other from being told": whether sendmail or the worker refuses it. Who was told is not
    /// told again while another is waited for.
    #[test]
    fn one_bad_address_keeps_no_other_from_being_told() {
        use std::os::unix::fs::PermissionsExt;
        let dir = std::env::temp_dir().join(format!("distcifs-one-bad-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (path, told, away) = (dir.join("sendmail"), dir.join("told"), dir.join("away"));
        // It takes a message for all, or for none.
        let script = format!(
            "#!/bin/sh\nshift 3\ncase $* in *bad@*) exit 67;; esac\n\
             case $* in *slow@*) test -e {1} && exit 75;; esac\nprintf '%s\\n' \"$@\" >>{0}\n",
            told.display(),
            away.display()
        );
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut mail = mail(path.to_str().unwrap());
        let to = |to: Value| failed(json!({ "to": to }));
        let read = || std::fs::read_to_string(&told).unwrap_or_default();
        let both = to(json!(["a@example.org", "bad@example.org", "b@example.org"]));
        assert_eq!(mail.tell(&both), Outcome::Told);
        assert_eq!(read(), "a@example.org\nb@example.org\n");
        std::fs::write(&away, "").unwrap();
        let waits = to(json!(["c@example.org", "slow@example.org", "bad@example.org"]));
        assert!(matches!(mail.tell(&waits), Outcome::Later(why, _) if why.starts_with("slow@example.org: ")));
        std::fs::remove_file(&away).unwrap();
        assert_eq!(mail.tell(&waits), Outcome::Told);
        assert_eq!(
            read(),
            "a@example.org\nb@example.org\nc@example.org\nslow@example.org\n"
        );
        // Where nobody can be told it never will be.
        let none = mail.tell(&to(json!(["bad@example.org", "bad@example.com"])));
        assert!(matches!(none, Outcome::Never(why) if why.contains("bad@example.com: ")));
        mail.domains = vec!["example.org".into()];
        assert_eq!(mail.tell(&to(json!(["d@example.org", "d@example.com"]))), Outcome::Told);
        assert!(read().ends_with("slow@example.org\nd@example.org\n"));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    /// "What sendmail says decides": statuses that a later try may change, and those that none does.
    #[test]
    fn the_status_of_sendmail_decides() {
        let dir = std::env::temp_dir().join(format!("distcifs-sendmail-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let program = |name: &str, text: &str| {
            use std::os::unix::fs::PermissionsExt;
            let path = dir.join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            mail(path.to_str().unwrap())
        };
        let saves = format!("printf '%s\\n' \"$@\" >{0}/arguments; cat >{0}/message", dir.display());
        assert_eq!(program("takes", &saves).tell(&failed(json!({}))), Outcome::Told);
        let arguments = std::fs::read_to_string(dir.join("arguments")).unwrap();
        assert_eq!(arguments, "-i\n-f\nci@example.org\na@example.org\nb@example.org\n");
        assert!(
            std::fs::read_to_string(dir.join("message"))
                .unwrap()
                .starts_with("From: distcifs <ci@example.org>\n")
        );
        for (name, text, later) in [
            ("busy", "echo 'try\u{1b}later' >&2; exit 75", true),
            ("broken", "exit 1", true),
            ("dies", "kill -9 $$", true),
            ("reads-nothing", "exec 0<&-; exit 78", true),
            ("no-user", "exit 67", false),
            ("bad-data", "yes >&2 & sleep 0.1; kill $!; exit 65", false),
        ] {
            let outcome = program(name, text).tell(&failed(json!({})));
            match outcome {
                Outcome::Later(why, None) if later => assert!(!why.contains('\u{1b}'), "{why}"),
                Outcome::Never(why) if !later => assert!(why.len() < 1000),
                other => panic!("{name}: {other:?}"),
            }
        }
        assert!(matches!(
            mail("/nonexistent/sendmail").tell(&failed(json!({}))),
            Outcome::Later(..)
        ));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
