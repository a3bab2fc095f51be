#!/bin/sh
# Transcribes one share of a list of recordings: number JOB_COMPLETION_INDEX (from 0) of SHARES.
#   transcribe-share.sh COMMAND...     COMMAND is the transcriber; LIST, RECORDINGS, TRANSCRIPTS and FORMAT are set
# Recordings that already have a transcript are skipped, so a restarted share continues where it stopped.
set -u

# A shell handles a signal only between two commands, so the transcriber runs in the background and `wait` waits for it.
child='' status=0 number=0 line=''
trap '[ -z "$child" ] || kill "$child"; exit 143' TERM INT
return=$(printf '\r')

while IFS= read -r line || [ -n "$line" ]; do
  line=${line%"$return"}
  case $line in '' | '#'*) continue ;; esac
  number=$((number + 1))
  [ $(((number - 1) % SHARES)) -eq "$JOB_COMPLETION_INDEX" ] || continue
  target=$TRANSCRIPTS/$line.${FORMAT%-v2}
  [ ! -e "$target" ] || continue
  mkdir -p "$(dirname "$target")" || exit 13

  # The name ends in .part until the transcript is complete: it is also written when a part of the recording was lost.
  "$@" --format "$FORMAT" --output "$target.part" -- "$RECORDINGS/$line" </dev/null &
  child=$!
  wait "$child"
  code=$?
  child=''
  if [ "$code" -eq 0 ]; then
    mv "$target.part" "$target" || exit 13
    continue
  fi
  echo "$line: exit code $code" >&2
  # No server: each of the remaining recordings would wait for the same timeout and fail too.
  [ "$code" -ne 51 ] || exit 51
  # An unreadable recording (50) stays unreadable. The exit code of a failure that a retry may fix has priority.
  if [ "$code" -ne 50 ] || [ "$status" -eq 0 ]; then status=$code; fi
done <"$LIST"
exit "$status"
