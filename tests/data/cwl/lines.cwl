cwlVersion: v1.2
class: Workflow
label: lines
doc: Write some files, count the lines of each, and say how many there are.
requirements:
  ScatterFeatureRequirement: {}
  MultipleInputFeatureRequirement: {}
  StepInputExpressionRequirement: {}
inputs:
  words:
    type: string[]
    default: [one, two-words, three]
  times: {type: int, default: 2}
  extra: File?
  is_loud: {type: boolean, default: false}
outputs:
  counts: {type: "File[]", outputSource: count/count}
  total: {type: File, outputSource: total/sum}
  shout: {type: File?, outputSource: shout/loud}
steps:
  write:
    run:
      class: CommandLineTool
      requirements:
        InitialWorkDirRequirement:
          listing:
            - entryname: write.sh
              entry: |
                for i in `seq $1`; do echo "$2"; done
        ResourceRequirement: {coresMin: 1, ramMin: 100}
      baseCommand: [sh, write.sh]
      inputs:
        times: {type: int, inputBinding: {position: 1}}
        word: {type: string, inputBinding: {position: 2}}
      stdout: $(inputs.word).txt
      outputs:
        text: stdout
    scatter: word
    in: {times: times, word: words}
    out: [text]
  count:
    run: count.cwl
    scatter: text
    in:
      text: {source: [write/text, extra], linkMerge: merge_flattened, pickValue: all_non_null}
    out: [count]
  total:
    run:
      class: CommandLineTool
      requirements: {ShellCommandRequirement: {}}
      inputs:
        counts: {type: "File[]", inputBinding: {position: 1}}
        name: string
      arguments: [cat, {valueFrom: "| awk '{n += $1} END {print n}'", position: 2, shellQuote: false}]
      stdout: $(inputs.name)
      outputs:
        sum: stdout
    in:
      counts: count/count
      name: {default: sum.txt}
    out: [sum]
  shout:
    run:
      class: CommandLineTool
      baseCommand: [tr, a-z, A-Z]
      inputs: {text: File}
      stdin: $(inputs.text.path)
      stdout: loud.txt
      outputs: {loud: stdout}
    when: $(inputs.is_loud)
    in: {text: total/sum, is_loud: is_loud}
    out: [loud]
