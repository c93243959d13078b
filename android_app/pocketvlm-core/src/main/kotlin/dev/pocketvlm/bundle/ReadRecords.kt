package dev.pocketvlm.bundle

/** Sections that say how a bundle was made: checked, since a bundle is never half understood, and not kept. */
internal fun checkRecipe(value: Reader) {
    val of = value.members("name", "calibration", "tensors")
    of["name"].name()
    of.given("calibration")?.let { given ->
        val calibration = given.members("source", "sequences", "tokens", "sha256")
        calibration["source"].literal()
        calibration["sequences"].positive()
        calibration["tokens"].positive()
        calibration["sha256"].sha256()
    }
    checkTensors(of["tensors"])
}

internal fun checkTensors(value: Reader) {
    value.named { tensor ->
        val of = tensor.members("bits", "group_size", "symmetric", "quantizer", "bits_per_weight", "weights")
        if (of["bits"].int(4, 32) !in setOf(4, 8, 32)) of["bits"].refuse("it must be 4, 8 or 32")
        of.given("group_size")?.positive()
        of.optional("symmetric")?.boolean()
        of["quantizer"].name()
        of["bits_per_weight"].number()
        of["weights"].positive()
    }
}

internal fun checkFidelity(value: Reader) {
    val of = value.members("lowering_relative_error", "vision", "text")
    of["lowering_relative_error"].number()
    of["vision"].takeUnless { it.value == null }?.let { seen ->
        val scores = seen.members("cosine", "relative_error")
        scores["cosine"].number()
        scores["relative_error"].number()
    }
    val finite = listOf("kl_mean", "kl_median", "kl_p999", "kl_max", "top1_agreement", "perplexity_ratio")
    val scores = of["text"].members("tokens", "relative_error_by_layer", *finite.toTypedArray())
    scores["tokens"].positive()
    for (key in finite) scores[key].number()
    scores["relative_error_by_layer"].list { it.number() }
}

/** An input or output of a graph. */
internal fun checkTensorSpec(value: Reader) {
    val of = value.members("name", "shape", "dtype")
    of["name"].name()
    of["shape"].list(0, 16) { size ->
        if (size.value is String) size.name() else if (!size.isWhole) size.refuse("it must be a whole number or a string")
    }
    of["dtype"].choice("float32", "int64", "int32", "int16", "int8", "uint8", "bool")
}

/** What is said of any NPU's program: gives its files. */
private fun checkProgram(of: Members, value: Reader): List<String> {
    of["prefill_tokens"].int(2, 4096)
    checkFidelity(of["fidelity"])
    val programs = of.optional("programs")?.list { it.fileName() }.orEmpty()
    if (of["compiled"].boolean() == programs.isEmpty()) {
        value.refuse("compiled programs and their files belong together")
    }
    return programs
}

/** The program of an NPU behind LiteRT, in one piece: gives the files that it names. */
internal fun checkLitertNpu(value: Reader): List<String> {
    val of = value.members("platform", "compiled", "programs", "prefill_tokens", "fidelity")
    of["platform"].choice("mt6989", "mt6991", "mt6993", "sm8550", "sm8650", "sm8750", "sm8850")
    return checkProgram(of, value)
}

/** The static program of an NPU's parts, whose chunks of layers follow one another: gives the files that it names. */
internal fun checkNpu(engine: String, value: Reader, layers: Int): List<String> {
    val of = value.members(
        "platform", "compiled", "programs", "chunks", "prefill_tokens", "tile_batches", "mask_value", "rope", "fidelity",
    )
    if (engine == "qnn") {
        of["platform"].choice("sm8550", "sm8650", "sm8750", "sm8850")
    } else {
        of["platform"].choice("mt6989", "mt6991", "mt6993")
    }
    of["tile_batches"].list { it.int(1, 64) }
    if (of["mask_value"].number() >= 0) of["mask_value"].refuse("it must be below 0")
    val programs = checkProgram(of, value)
    var before = 0L
    of["chunks"].list(1) { chunk ->
        val ends = chunk.list(2, 2) { it.long(0, 1L shl 40) }
        if (ends[0] != before || ends[1] <= ends[0]) chunk.refuse("chunks do not follow one another")
        before = ends[1]
    }
    if (before != layers.toLong()) value.refuse("its chunks have another number of layers than the model")
    return programs + of["rope"].fileName()
}
