#!/bin/sh
# Transcribes one share of a list of recordings: of SHARES, that of JOB_COMPLETION_INDEX.
#   transcribe-share.sh COMMAND...     COMMAND is the transcriber; LIST, RECORDINGS, TRANSCRIPTS and FORMAT are set
# What has a transcript is left alone, so a share that is begun again goes on where it was.
set -u

# A shell acts on a signal only between two commands, so the transcriber runs in the background and is waited for.
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

  # Under another name until it is whole: a transcript is also written when a part of the recording was lost.
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
  # No server: the recordings that are left would wait for it as long and in vain.
  [ "$code" -ne 51 ] || exit 51
  # An unreadable recording stays so. A failure that a new try may mend has the last word.
  if [ "$code" -ne 50 ] || [ "$status" -eq 0 ]; then status=$code; fi
done <"$LIST"
exit "$status"
