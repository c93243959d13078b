package dev.pocketvlm.bundle

import dev.pocketvlm.images.mostTokens

/** Rules of pictures that go through the tower as a whole, or in parts. */
private val NATIVE_RULES = listOf("smart-resize", "lfm2", "minicpmv", "gemma4")

/**
 * A picture goes through the tower as a whole, each of whose tiles is one token. [window]: tiles a side of the squares that
 * most layers let see each other alone. [table]: a file of float32 [tableSide, tableSide, vision width] that is laid over
 * a picture, stretched, [tableResized] as an image is, or [tableBucketed] with the entry that each patch falls into; or where
 * it is [tableByAxis], [2, tableSide, vision width], what a patch's column has in the first and its row in the second. Without
 * [ropeTheta] nothing turns. [queries]: tokens that a resampler makes of each part of a picture. [deep]: how many of the
 * decoder's first layers add rows of their own, which lie behind each embedding.
 */
internal class PatchPictures(
    val mostTokens: Int,
    val headDim: Int,
    val ropeTheta: Double?,
    val window: Int?,
    val table: String?,
    val tableSide: Int?,
    val tableResized: Boolean,
    val tableByAxis: Boolean,
    val tableBucketed: Boolean,
    val queries: Int?,
    val deep: Int?,
) {
    /** The tokens of a part of so many tiles. */
    fun tokensOf(part: Grid): Int = queries ?: part.tiles.toInt()
}

/**
 * A token has a position on each of three axes, and each pair of a head's channels turns by one of them. [rope]: a file of
 * float32 [2, KV length, pairs], cos and sin by position.
 */
internal class MropePositions(val sections: List<Int>, val interleaved: Boolean, val rope: String)

internal fun readPatches(value: Reader): PatchPictures {
    val of = value.members(
        "most_tokens", "head_dim", "rope_theta", "window", "table", "table_side", "table_resized", "table_by_axis",
        "table_bucketed", "queries", "deep",
    )
    val theta = of.given("rope_theta")
    val read = PatchPictures(
        mostTokens = of["most_tokens"].int(1, 1 shl 16),
        headDim = of["head_dim"].int(1, 1 shl 16),
        ropeTheta = theta?.number(0.0, 1e18),
        window = of.given("window")?.int(1, 64),
        table = of.given("table")?.fileName(),
        tableSide = of.given("table_side")?.int(1, 4096),
        tableResized = isThere(of, "table_resized"),
        tableByAxis = isThere(of, "table_by_axis"),
        tableBucketed = isThere(of, "table_bucketed"),
        queries = of.given("queries")?.int(1, 4096),
        deep = of.given("deep")?.int(1, 16),
    )
    if (read.headDim % 4 != 0) of["head_dim"].refuse("it must be a multiple of 4")
    if (read.ropeTheta != null && read.ropeTheta <= 0) theta?.refuse("it must be above 0")
    if ((read.table == null) != (read.tableSide == null)) value.refuse("table and table_side belong together")
    return read
}

/** Of what is true or left out. */
private fun isThere(of: Members, key: String): Boolean {
    val flag = of.given(key) ?: return false
    return flag.boolean() || flag.refuse("it must be true, or left out")
}

private fun readState(of: Members): LayerCache {
    val (heads, keys, values) = listOf("heads", "key_width", "value_width").map { of[it].int(1, 1 shl 12) }
    return LayerCache(of["width"].int(1, 1 shl 20), of["kernel"].int(2, 64), state = Matrices(heads, keys, values))
}

/** What a layer keeps. */
internal fun readLayerCache(value: Reader): LayerCache {
    val kinds = value.entries { key, one -> one.takeIf { key == "kind" } }
    val given = kinds["kind"] ?: value.missing("kind")
    val kind = given.choice("attention", "shared", "convolution", "state")
    if (kind == "attention") return LayerCache(headDim = value.members("kind", "head_dim").given("head_dim")?.int(1, 1 shl 16))
    if (kind == "shared") return LayerCache(source = value.members("kind", "layer")["layer"].int(0, 4095))
    if (kind == "state") return readState(value.members("kind", "heads", "key_width", "value_width", "width", "kernel"))
    val of = value.members("kind", "width", "kernel")
    return LayerCache(of["width"].int(1, 1 shl 20), of["kernel"].int(1, 64))
}

internal fun readPositions(value: Reader): MropePositions {
    val of = value.members("kind", "sections", "interleaved", "rope")
    of["kind"].choice("mrope")
    val sections = of["sections"].list(3, 3) { it.int(0, 1 shl 15) }
    val interleaved = of["interleaved"].boolean()
    if (interleaved && sections.max() > sections[0]) {
        of["sections"].refuse("an axis has more pairs than the first, between whose they lie")
    }
    return MropePositions(sections, interleaved, of["rope"].fileName())
}

/** What does not fit together of a vision, of the fields that native resolution alone has; null where all does. */
internal fun nativeProblem(vision: Vision): String? {
    val tiling = vision.preprocessing.tiling
    val isNative = vision.patches != null
    val inParts = tiling.isInParts
    val ratio = vision.downsampleRatio
    return when {
        (tiling.minPixels != null) != isNative -> "min_pixels and patches belong together"
        (tiling.maxPixels != null) != isNative -> "max_pixels and patches belong together"
        (tiling.strategy in NATIVE_RULES) != isNative -> {
            val strategy = if (isNative) "smart-resize" else tiling.strategy
            "strategy $strategy and patches belong together"
        }
        (tiling.strategy == "lfm2") != (tiling.part != null) -> "strategy lfm2 and part belong together"
        vision.patches == null -> null
        vision.tokensPerTile != 1 || vision.packing != null || (tiling.thumbnail != "none" && !inParts) ->
            "a tile of a picture as patches is one token, without thumbnail and packing"
        tiling.tileSize % ratio != 0L || vision.patchesPerTile != ratio * ratio ->
            "a tile of a picture as patches has downsample_ratio x downsample_ratio of them"
        vision.patches.mostTokens < mostTokens(tiling) -> "patches.most_tokens is less than a picture can have"
        (vision.patches.ropeTheta == null) != inParts -> "patches.rope_theta is of a strategy without parts"
        else -> partsProblem(tiling.strategy, vision.patches, ratio) ?: axesProblem(vision, vision.patches)
    }
}

/** The same of what a rule of parts alone has. */
private fun partsProblem(strategy: String, patches: PatchPictures, ratio: Long): String? {
    val isSliced = strategy == "minicpmv"
    return when {
        patches.tableResized != (strategy == "lfm2") || patches.tableBucketed != isSliced ->
            "patches.table_resized is of the strategy lfm2, patches.table_bucketed of minicpmv"
        patches.queries != null && (!isSliced || ratio != 1L) ->
            "patches.queries are of the strategy minicpmv, whose tiles are then a patch each"
        isSliced && (patches.window != null || patches.deep != null) ->
            "slices of the strategy minicpmv have no windows and nothing deep"
        else -> null
    }
}

/** The same of what a rule has whose tower has a table for each axis. */
private fun axesProblem(vision: Vision, native: PatchPictures): String? {
    val isByAxis = vision.preprocessing.tiling.strategy == "gemma4"
    return when {
        native.tableByAxis != isByAxis || (isByAxis && native.table == null) ->
            "patches.table_by_axis is of the strategy gemma4, which has it"
        !isByAxis -> null
        native.window != null || native.deep != null -> "the strategy gemma4 has no windows and nothing deep"
        (native.tableSide ?: 0) < vision.downsampleRatio * native.mostTokens ->
            "patches.table_side is less than the patches that a picture can have in a row"
        else -> null
    }
}

/** What is wrong with the files of a manifest's tables: they are not as large as it says. Null where nothing is. */
internal fun tableProblem(manifest: Manifest): String? {
    val positions = manifest.positions
    val length = manifest.kvCache.length.toLong()
    val pairs = positions?.sections?.sum()?.toLong() ?: 0
    val wanted = manifest.kvCache.headDim / 2
    return when {
        manifest.vision?.let { hasTable(manifest, it) } == false ->
            "vision.patches.table is no file of as many float32 as its side and the tower's width say"
        positions == null -> null
        manifest.vision?.preprocessing?.tiling?.isInParts == true -> "positions are of pictures as a whole, not in parts"
        pairs != wanted -> "positions.sections has $pairs pairs, a head $wanted"
        !manifest.hasFloats(positions.rope, 2, length, pairs) ->
            "positions.rope is no file of a cosine and a sine a position and pair"
        else -> null
    }
}

private fun hasTable(manifest: Manifest, vision: Vision): Boolean {
    val native = vision.patches
    val side = native?.tableSide?.toLong() ?: return true
    return manifest.hasFloats(native.table, if (native.tableByAxis) 2 else side, side, vision.hiddenSize)
}

/** Whether a listed file has as many float32 as these sizes say, whose product may be beyond 64 bits. */
private fun Manifest.hasFloats(name: String?, vararg sizes: Long): Boolean = try {
    files[name]?.bytes == sizes.fold(Float.SIZE_BYTES.toLong(), Math::multiplyExact)
} catch (_: ArithmeticException) {
    false
}

/** What is wrong with a manifest's spans, or null: whether the longest fits into the smallest prefill [step] of its engines. */
internal fun spanProblem(manifest: Manifest, step: Int): String? {
    if (!manifest.hasSpans) return null
    manifest.engines.keys.firstOrNull { it != "onnx" && it != "executorch" }?.let {
        return "$it has no spans of tokens that see each other"
    }
    var longest = manifest.kvCache.length
    if (manifest.spans == "image") {
        val vision = manifest.vision
        val layout = manifest.imageLayout
        if (vision == null || layout == null) return "spans of images are of a model that sees"
        val tiling = vision.preprocessing.tiling
        val isOne = tiling.candidates == listOf(Grid(1, 1)) && tiling.thumbnail == "none"
        if (!isOne || vision.patches != null || layout.imageStart.isEmpty() && layout.imageEnd.isEmpty()) {
            return "a span of an image is one tile's tokens, with text beside them"
        }
        longest = vision.tokensPerTile
    } else if (manifest.chat?.singleTurn == false) {
        return "a span of a prompt is of a model that answers one question (chat.single_turn)"
    }
    return if (step >= longest) null else "a span of $longest tokens does not fit into a prefill_chunk of $step"
}
