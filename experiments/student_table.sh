#!/bin/sh
# The paper's student table from the logs of a 175B teacher: six tasks, fine_tune and fine_tune_cot, three seeds, by the
# dev protocol and by the paper's. DATA holds a file a task, as docs/reproduction.md says; what follows it goes to both
# sweeps, such as student.batch_size=16 or task.test=20. Killed, it goes on where it was.
#
#   sh experiments/student_table.sh DATA [SECTION.FIELD=VALUE]... 2>&1 | tee student_table.log
set -eu
data=$1
shift
here=$(dirname "$0")
failed=0 # a run that fails leaves the rest of the table
for task in coin_flip last_letter_concatenation multiarith svamp date_understanding tracking_shuffled_objects
do
  cotdistill import "$data/$task.jsonl" --store runs/175b.sqlite --model text-davinci-002 --questions "runs/175b/$task.jsonl"
done
date
cotdistill sweep "$here/recorded_175b.yaml" runs=runs/dev "student.seeds=[0,1,2]" "$@" || failed=$?
date
cotdistill sweep "$here/recorded_175b.yaml" runs=runs/protocol "student.seeds=[0,1,2]" student.steps=0 student.epochs=20 \
  student.learning_rate=3.0e-4 student.schedule=constant student.warmup=0 student.select=paper student.dev_fraction=0.1 "$@" || failed=$?
date
python -c "import os, platform, torch; print(platform.platform(), os.cpu_count(), 'cores,', torch.__version__, \
torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU')"
for protocol in dev protocol
do
  python "$here/table.py" "runs/$protocol/recorded_175b.sweep.json"
done
exit "$failed"
