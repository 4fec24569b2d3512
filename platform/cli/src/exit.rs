//! How `holm` ends when something went wrong: a message for people and a documented exit code.

use std::io;

use holm_api::{ClientError, Problem, ProblemCode};
use holm_manifest::ManifestError;

/// The exit codes, as `--help` and the reference page list them.
pub(crate) const TABLE: &str = "\
Exit codes:
  0    done
  1    it was tried and failed
  2    the command line or the manifest is wrong
  3    holm is not running on this state folder, or cannot be reached
  4    refused: it does not exist, does not fit the state, another command was faster, or the token
       does not allow it
  5    the deployment failed; what served before goes on
  124  the connection to holm was cut off while a command ran inside an instance
  130  interrupted; what the server had accepted goes on
  `exec` ends with the status of the command it ran, or 128 and the number of the signal that ended it";

/// A kind of end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It was tried and failed.
    Failed,
    /// The command line or the manifest is wrong.
    Usage,
    /// Holm is not running.
    NotRunning,
    /// It does not fit the state.
    Refused,
    /// The deployment failed.
    Deployment,
    /// The user interrupted.
    Interrupted,
    /// Exactly this status.
    Status(u8),
}

impl Exit {
    /// The exit code.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotRunning => 3,
            Self::Refused => 4,
            Self::Deployment => 5,
            Self::Interrupted => 130,
            Self::Status(code) => code,
        }
    }
}

/// Why `holm` ends early.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    /// What is said.
    pub(crate) said: Said,
}

/// What is said at the end.
#[derive(Debug)]
pub(crate) enum Said {
    /// Nothing: it has been said, or nobody listens.
    Nothing,
    /// A problem.
    Problem(Problem),
    /// A manifest's mistakes.
    Manifest(Box<ManifestError>),
}

impl Failure {
    /// A problem with an exit code.
    pub(crate) const fn new(exit: Exit, problem: Problem) -> Self {
        Self { exit, said: Said::Problem(problem) }
    }

    /// A wrong command line.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, Problem::bad_request(message))
    }

    /// Ends with `exit` without a word.
    pub(crate) const fn silent(exit: Exit) -> Self {
        Self { exit, said: Said::Nothing }
    }

    /// Adds what to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Said::Problem(problem) = &mut self.said {
            problem.hint = Some(hint.into());
        }
        self
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let exit = match problem.code {
            ProblemCode::BadRequest | ProblemCode::TooLarge => Exit::Usage,
            ProblemCode::NotFound
            | ProblemCode::Conflict
            | ProblemCode::Refused
            | ProblemCode::Unauthorised
            | ProblemCode::Denied => Exit::Refused,
            ProblemCode::Unavailable | ProblemCode::Failed => Exit::Failed,
        };
        Self::new(exit, problem)
    }
}

impl From<ManifestError> for Failure {
    fn from(error: ManifestError) -> Self {
        Self { exit: Exit::Usage, said: Said::Manifest(Box::new(error)) }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        match error {
            ClientError::Problem(problem) => problem.into(),
            ClientError::NotRunning { .. } => {
                let hint = "start it with `holm up`, or name another state folder with `--state`";
                Self::new(Exit::NotRunning, Problem::unavailable(message).hint(hint))
            }
            ClientError::NotReachable { source, .. } => {
                let hint =
                    "check the address and the fingerprint in HOLM_HOST, and that holm runs there with `--remote`";
                Self::new(Exit::NotRunning, Problem::unavailable(message).because(source).hint(hint))
            }
            ClientError::NotAllowed { source, .. } => {
                let hint = "run as the user that started holm, or as a member of its group";
                Self::new(Exit::NotRunning, Problem::unavailable(message).because(source).hint(hint))
            }
            ClientError::Cut(source) => {
                let hint = "what the server had accepted goes on; `holm status` shows it";
                Self::new(Exit::Failed, Problem::unavailable(message).because(source).hint(hint))
            }
            ClientError::Unreadable(source) => {
                let hint = "`holm version` shows the versions of both sides";
                Self::new(Exit::Failed, Problem::failed(message).because(source).hint(hint))
            }
        }
    }
}

/// Writing to standard output failed: the reader is gone, or the disk is full.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::silent(Exit::Status(141)),
            _ => Self::new(Exit::Failed, Problem::failed("cannot write the output").because(error)),
        }
    }
}
