"""How parameters and values go into the kernel of another language, and out of it: Python, bash, R.

Values are files in declared forms (:mod:`kale_proxy.values`: JSON, npy, CSV, Parquet); what only Python can read is
refused with the way out. For R, base R and jsonlite, which IRkernel needs anyway, will do; Parquet needs arrow.
"""

from __future__ import annotations

import inspect
import json
import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from kale_proxy import shellrun, values
from kale_proxy.spec import read_literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kale_proxy.spec import InputSpec, JobSpec

_R_ERROR = "error-in-r.txt"
SCRATCH = "inputs"  # the folder, in the step's, of values that had no file of their own


def prelude(language: str, spec: JobSpec) -> str | None:
    """Return code that sets a step's parameters and inputs; empty if it has none, None where we know no way.

    Raises
    ------
    kale_proxy.values.ValueFileError
        A value is not there, or can't be read in that language.
    """
    name = language.lower()
    if not spec.params and not spec.inputs:
        return f"export KALE_OUTPUTS={shlex.quote(spec.folder + '/outputs')}" if name == "bash" and spec.outputs else ""
    if name == "python":
        return _python(spec)
    if name == "bash":
        return "\n".join(f"export {key}={shlex.quote(text)}" for key, text in shellrun.shell_variables(spec).items())
    if name == "r":
        return _r(spec)
    if name == "julia" and not spec.inputs:
        return "\n".join(f"{key} = {_julia(value)}" for key, value in spec.parameters().items())
    return None


def assignments(language: str, params: dict[str, str]) -> str | None:
    """Return code that sets variables, given as Python literals; None where we know no way."""
    found = {name: read_literal(text) for name, text in params.items()}
    if language.lower() == "python":
        return "\n".join(f"{name} = {text}" for name, text in params.items())
    if language.lower() == "bash":
        return "\n".join(f"{name}={shlex.quote(shellrun.as_text(value))}" for name, value in found.items())
    if language.lower() == "r":
        return "\n".join(f"{name} <- {r_literal(value)}" for name, value in found.items())
    if language.lower() == "julia":
        return "\n".join(f"{name} = {_julia(value)}" for name, value in found.items())
    return None


def collecting(language: str, spec: JobSpec) -> str:
    """Return code that leaves the step's outputs in files of its ``outputs`` folder.

    Raises
    ------
    kale_proxy.values.ValueFileError
        We know no way out of that language.
    """
    name, folder = language.lower(), f"{spec.folder}/outputs"
    if name == "python":
        return (
            f"{_VALUES}\nfrom pathlib import Path as _p\n"
            f"_kale_values.save_all({{_n: globals()[_n] for _n in {list(spec.outputs)!r}}}, _p({folder!r}), forms={spec.formats!r}, "
            "portable=globals().get('_kale_common', ()))\n"
            "del _p, _kale_values"
        )
    if name == "bash":
        return "\n".join(f'if [ -n "${{{key}+x}}" ]; then printf %s "${{{key}}}" > {shlex.quote(f"{folder}/{key}.txt")}; fi' for key in spec.outputs)
    if name == "r":
        calls = [f"kale_save({r_literal(key)}, {r_literal(spec.formats.get(key, ''))})" for key in spec.outputs]
        return _r_caught("\n".join(["local({", f"kale_folder <- {r_literal(folder)}", _R_SAVE, *calls, "})"]), spec)
    raise values.ValueFileError(f"values can't be taken from a {language} kernel: use --files-out")


# The values module travels as source: the kernel's environment need not have this package.
_VALUES = (
    "import sys as _s, types as _t\n"
    "_kale_values = _t.ModuleType('_kale_values'); _s.modules['_kale_values'] = _kale_values\n"
    f"exec(compile({inspect.getsource(values)!r}, '<kale values>', 'exec'), _kale_values.__dict__)\ndel _s, _t"
)


def _paths(spec: JobSpec, item: InputSpec) -> list[Path]:
    return [values.file_of(Path(folder), item.output, Path(spec.folder) / SCRATCH) for folder in item.folders]


def _python(spec: JobSpec) -> str:
    lines = [f"{name} = {text}" for name, text in spec.params.items()]
    if spec.inputs:
        lines += [_VALUES, "from pathlib import Path as _p"]
    for item in spec.inputs:
        loads = [f"_kale_values.load_file(_p({str(path)!r}), {item.output!r})" for path in _paths(spec, item)]
        lines.append(f"{item.name} = [{', '.join(loads)}]" if item.gather else f"{item.name} = {loads[0]}")
        if item.gather:
            lines.append(f"{item.name}_params = [{', '.join(item.gather_params)}]")
    if spec.inputs:
        lines.append("del _p, _kale_values")
    return "\n".join(lines)


def _r(spec: JobSpec) -> str:
    lines = [f"`{name}` <- {r_literal(value)}" for name, value in spec.parameters().items()]
    for item in spec.inputs:
        paths = _paths(spec, item)
        if any(path.suffix == ".pkl" for path in paths):
            kind = (values.read_index(Path(item.folders[0])).get(item.output) or {}).get("type", "a value")
            raise values.ValueFileError(
                f"`{item.output}` ({kind}) of step {item.producer} is kept in Python's own form, which R can't read: "
                f"declare one for it there, --formats {item.output}=csv (or json, npy, parquet)"
            )
        loads = [f"kale_load({r_literal(str(path))})" for path in paths]
        value = f"list({', '.join(loads)})" if item.gather else loads[0]
        lines.append(f"`{item.name}` <- local({{\n{_R_LOAD}\n{value}\n}})")
        if item.gather:
            points = ", ".join(r_literal(read_literal(text)) for text in item.gather_params)
            lines.append(f"`{item.name}_params` <- list({points})")
    return _r_caught("\n".join(lines), spec)


def failure(spec: JobSpec) -> str:
    """Return what went wrong in R code of ours, empty if nothing did: IRkernel (1.3) answers ``ok`` to silent code that failed."""
    path = Path(spec.folder) / _R_ERROR
    try:
        said = path.read_text(encoding="utf-8", errors="replace").strip()
        path.unlink()
    except FileNotFoundError:
        return ""
    return said or "R did not say why"


def _r_caught(code: str, spec: JobSpec) -> str:
    path = r_literal(f"{spec.folder}/{_R_ERROR}")
    return f"invisible(tryCatch({{\n{code}\n}}, error = function(kale_error) writeLines(enc2utf8(conditionMessage(kale_error)), {path}, useBytes = TRUE)))"


def r_literal(value: object) -> str:
    """Return a Python value as R writes it; raises ValueFileError for what R has nothing like."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, (int, float)):
        return _r_number(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        return f"list({', '.join(f'`{key}` = {r_literal(item)}' for key, item in value.items())})"
    if isinstance(value, (list, tuple)):
        return f"{'c' if _is_vector(value) else 'list'}({', '.join(map(r_literal, value))})"
    raise values.ValueFileError(f"{value!r} ({type(value).__name__}) can't be given to R")


def _r_number(value: float) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Inf" if value > 0 else "-Inf"
    return f"{value}L" if isinstance(value, int) and abs(value) < 2**31 else repr(float(value))


def _is_vector(items: Iterable[object]) -> bool:
    kinds = {bool if isinstance(item, bool) else str if isinstance(item, str) else float if isinstance(item, (int, float)) else None for item in items}
    return len(kinds) == 1 and None not in kinds


def _julia(value: object) -> str:
    if isinstance(value, bool) or value is None:
        raise values.ValueFileError("true, false and none differ between languages: give them as text")
    return json.dumps(value)


_R_LOAD = r"""
kale_npy <- function(path) {
  con <- file(path, "rb"); on.exit(close(con))
  magic <- readBin(con, "raw", 8L)
  size <- if (as.integer(magic[7]) == 1L) readBin(con, "integer", 1L, 2L, signed = FALSE, endian = "little") else readBin(con, "integer", 1L, 4L, endian = "little")
  head <- rawToChar(readBin(con, "raw", size))
  kind <- sub(".*'descr': *'([^']*)'.*", "\\1", head)
  shape <- as.integer(regmatches(s <- sub(".*'shape': *\\(([^)]*)\\).*", "\\1", head), gregexpr("[0-9]+", s))[[1]])
  is_fortran <- grepl("'fortran_order': *True", head)
  count <- prod(shape); bytes <- as.integer(gsub("[^0-9]", "", kind)); endian <- if (startsWith(kind, ">")) "big" else "little"
  letter <- gsub("[^a-zA-Z]", "", kind)
  x <- if (letter == "f" && bytes %in% c(4L, 8L)) readBin(con, "double", count, bytes, endian = endian)
    else if (letter == "i" && bytes <= 4L) readBin(con, "integer", count, bytes, endian = endian)
    else if (letter == "u" && bytes <= 2L) readBin(con, "integer", count, bytes, signed = FALSE, endian = endian)
    else if (letter %in% c("i", "u") && bytes == 8L) {
      half <- matrix(readBin(con, "integer", 2L * count, 4L, endian = endian), 2L)
      low <- half[if (endian == "little") 1L else 2L, ]; high <- half[if (endian == "little") 2L else 1L, ]
      whole <- ifelse(is.na(high), -2147483648, high) * 4294967296 + ifelse(is.na(low), 2147483648, ifelse(low < 0, low + 4294967296, low))
      if (any(abs(whole) > 9007199254740992)) stop("a number of it is too large for R, which has 53 bits", call. = FALSE)
      whole
    }
    else if (letter == "b") as.logical(as.integer(readBin(con, "raw", count)))
    else if (letter == "c" && bytes == 16L) readBin(con, "complex", count, endian = endian)
    else stop(sprintf("R has no numbers of numpy's kind %s", kind), call. = FALSE)
  if (length(shape) < 2L) return(x)
  if (is_fortran) array(x, shape) else aperm(array(x, rev(shape)))
}
kale_load <- function(path) {
  kind <- sub(".*[.]", "", path)
  if (kind == "json") {
    if (!requireNamespace("jsonlite", quietly = TRUE)) stop("R lacks jsonlite, by which values come", call. = FALSE)
    jsonlite::fromJSON(path)
  } else if (kind == "npy") kale_npy(path)
  else if (kind == "csv") utils::read.csv(path, check.names = FALSE, stringsAsFactors = FALSE, encoding = "UTF-8")
  else if (kind == "parquet") {
    if (!requireNamespace("arrow", quietly = TRUE)) stop("R lacks arrow, which reads Parquet: declare --formats NAME=csv where it is made", call. = FALSE)
    as.data.frame(arrow::read_parquet(path))
  } else stop(sprintf("R can't read %s", path), call. = FALSE)
}"""

_R_SAVE = r"""
kale_is_json <- function(x) {
  if (is.null(x)) return(TRUE)
  if (is.factor(x) || is.data.frame(x) || is.array(x)) return(FALSE)
  if (is.atomic(x)) return(!is.complex(x) && !is.raw(x) && !anyNA(x) && (!is.numeric(x) || all(is.finite(x))) && is.null(attr(x, "class")))
  is.list(x) && is.null(attr(x, "class")) && all(vapply(x, kale_is_json, NA))
}
kale_json <- function(x) {
  keyed <- function(parts) if (is.null(names(parts))) paste0("[", paste(parts, collapse = ","), "]") else
    paste0("{", paste(vapply(names(parts), kale_json, ""), parts, sep = ":", collapse = ","), "}")
  if (is.null(x)) return("null")
  if (is.data.frame(x)) return(paste0("[", paste(vapply(seq_len(nrow(x)), function(i) kale_json(lapply(x, function(column) column[[i]])), ""), collapse = ","), "]"))
  if (length(dim(x)) > 1L) return(paste0("[", paste(vapply(seq_len(dim(x)[1L]), function(i) kale_json(if (length(dim(x)) == 2L) I(as.vector(x[i, ])) else array(asplit(x, 1L)[[i]], dim(x)[-1L])), ""), collapse = ","), "]"))
  if (is.factor(x)) x <- as.character(x)
  if (is.list(x)) return(keyed(vapply(x, kale_json, "")))
  if (anyNA(x) || (is.numeric(x) && !all(is.finite(x)))) stop("JSON has no NA, NaN or Inf", call. = FALSE)
  parts <- if (is.character(x)) vapply(unname(x), function(text) as.character(jsonlite::toJSON(enc2utf8(text), auto_unbox = TRUE)), "")
    else if (is.logical(x)) ifelse(x, "true", "false") else if (is.integer(x)) sprintf("%d", x)
    else { short <- sprintf("%.15g", x); ifelse(as.numeric(short) == x, short, sprintf("%.17g", x)) }
  names(parts) <- names(x)
  if (length(x) == 1L && is.null(names(x)) && !inherits(x, "AsIs")) parts else keyed(parts)
}
kale_write_npy <- function(x, path) {
  kind <- if (is.logical(x) && !anyNA(x)) "|b1" else if (is.integer(x) && !anyNA(x)) "<i4" else if (is.complex(x)) "<c16" else if (is.numeric(x) || is.logical(x)) "<f8" else
    stop("it holds no numbers, so it can't be written as npy", call. = FALSE)
  shape <- if (is.null(dim(x))) length(x) else dim(x)
  head <- sprintf("{'descr': '%s', 'fortran_order': %s, 'shape': (%s), }", kind, if (length(shape) > 1L) "True" else "False", paste0(paste(shape, collapse = ", "), if (length(shape) == 1L) ","))
  head <- paste0(head, strrep(" ", (64L - (nchar(head) + 11L) %% 64L) %% 64L), "\n")
  con <- file(path, "wb"); on.exit(close(con))
  writeBin(as.raw(c(0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1L, 0L)), con)
  writeBin(nchar(head), con, 2L, endian = "little")
  writeBin(charToRaw(head), con)
  flat <- as.vector(x)
  if (kind == "|b1") writeBin(as.raw(flat), con) else writeBin(if (kind == "<f8") as.double(flat) else flat, con, endian = "little")
}
kale_write_csv <- function(x, path) {
  if (is.matrix(x)) x <- as.data.frame(x)
  if (!is.data.frame(x)) stop("it is no table, so it can't be written as csv", call. = FALSE)
  x[] <- lapply(x, function(column) if (is.factor(column)) as.character(column) else column)
  if (!all(vapply(x, function(column) is.atomic(column) && !is.complex(column), NA))) stop("a column of it is no plain vector", call. = FALSE)
  is_text <- which(!vapply(x, function(column) is.numeric(column) && is.null(attr(column, "class")) || is.logical(column), NA))
  x[] <- lapply(x, function(column) if (is.double(column) && is.null(attr(column, "class"))) ifelse(is.na(column), NA, ifelse(is.finite(column), sprintf("%.17g", column), ifelse(column > 0, "inf", "-inf")))
    else if (is.logical(column)) ifelse(is.na(column), NA, ifelse(column, "True", "False")) else if (is.numeric(column) && is.null(attr(column, "class"))) column else as.character(column))
  heads <- paste(vapply(names(x), function(name) paste0('"', gsub('"', '""', name), '"'), ""), collapse = ",")
  con <- file(path, "w", encoding = "UTF-8"); on.exit(close(con))
  writeLines(heads, con)
  utils::write.table(x, con, sep = ",", na = "", quote = is_text, qmethod = "double", row.names = FALSE, col.names = FALSE)
}
kale_save <- function(name, form) {
  if (!exists(name, envir = globalenv(), inherits = FALSE)) stop(sprintf("it declares the output `%s` but its code never assigned it", name), call. = FALSE)
  x <- get(name, envir = globalenv())
  what <- sprintf("`%s` (%s)", name, class(x)[1L])
  if (is.factor(x) && form %in% c("", "json")) x <- as.character(x)
  if (form == "") form <- if (is.data.frame(x)) "csv" else if (kale_is_json(x)) "json" else if (is.atomic(x) && (is.numeric(x) || is.logical(x) || is.complex(x)) && all(class(x) %in% c("matrix", "array", "numeric", "integer", "logical", "complex"))) "npy" else
    stop(sprintf("%s can't go to another language: hand on its parts, as numbers, text, lists or tables", what), call. = FALSE)
  path <- file.path(kale_folder, paste0(name, ".", form))
  tryCatch(
    if (form == "json") {
      if (is.array(x) && !is.list(x)) { if (anyNA(x) || (is.numeric(x) && !all(is.finite(x)))) stop("JSON has no NA, NaN or Inf", call. = FALSE) }
      else if (!is.data.frame(x) && !kale_is_json(x)) stop("JSON has nothing like it", call. = FALSE)
      if (!requireNamespace("jsonlite", quietly = TRUE)) stop("R lacks jsonlite", call. = FALSE)
      writeLines(kale_json(x), path, useBytes = TRUE)
    } else if (form == "npy") kale_write_npy(x, path)
    else if (form == "csv") kale_write_csv(x, path)
    else {
      if (!requireNamespace("arrow", quietly = TRUE)) stop("R lacks arrow, which writes Parquet: declare csv", call. = FALSE)
      if (!is.data.frame(x)) stop("it is no table", call. = FALSE)
      arrow::write_parquet(x, path)
    },
    error = function(exc) stop(sprintf("%s can't be written as %s: %s", what, form, conditionMessage(exc)), call. = FALSE)
  )
  invisible()
}"""
