package dev.pocketvlm.bundle

/** A file of a bundle: its size, the digest of all of it, and of a sample that is cheap to check at load. */
internal class FileEntry(val bytes: Long, val sha256: String, val sampleSha256: String)

/** One graph of one engine; [data] are the files of its external weights. */
internal class Part(val file: String, val data: List<String>)

/** Tiles across and down. */
internal data class Grid(val across: Int, val down: Int) {
    /** How many tiles it has. */
    val tiles: Long get() = across.toLong() * down
}

/** How the tokens of an image's tiles become one picture again; [newline] is a file of float32 [hidden]. */
internal class Packing(val newline: String, val mostTiles: Int?)

/** How an image is cut into tiles: `pocketvlm.images.tiling.Tiling` of Python. [tileSize] is a side in pixels. */
internal class Tiling(
    val tileSize: Int,
    val strategy: String,
    val candidates: List<Grid>,
    val alpha: Double,
    val thumbnail: String,
    val thumbnailOfSingleTile: Boolean,
    val longestEdge: Int?,
    /** of a picture of native resolution, as are at most [maxPixels] */
    val minPixels: Long? = null,
    val maxPixels: Long? = null,
    /** tiles along a side of each part that a large picture is cut into */
    val part: Int? = null,
) {
    /** Whether the tiles of a part see each other alone, and a large picture has several. */
    val isInParts: Boolean get() = strategy == "lfm2" || strategy == "minicpmv"
}

/** How an image becomes numbers: resized by [resizeFilter], padded, then (byte * rescale - mean) / std a channel. */
internal class Preprocessing(
    val tiling: Tiling,
    val resizeFilter: String,
    /** red, green, blue; null stands for what is no byte */
    val padColor: List<Int?>,
    val rescale: Double,
    val mean: List<Double>,
    val std: List<Double>,
)

/** Image to tiles to tokens. */
internal class Vision(
    val preprocessing: Preprocessing,
    val tileBatch: Int,
    val patchesPerTile: Long,
    val hiddenSize: Long,
    val downsampleRatio: Long,
    val tokensPerTile: Int,
    val packing: Packing?,
    val patches: PatchPictures?,
) {
    /** Of a tile, whose tokens are a square where they are packed. */
    val tokensPerSide: Int get() = Math.sqrt(tokensPerTile.toDouble()).toInt()
}

/**
 * Token ids around an image's tokens. [lone] and [lastRowEnd] stand for tile[0][0] and the last rowEnd, or are null. Behind the
 * tokens of each tile stands [tileEnd], behind those of a thumbnail or of a lone tile [thumbnailEnd], behind imageStart the
 * image's number in the conversation, of the first one numbers[0].
 */
internal class ImageLayout(
    val imageStart: List<Int>,
    val thumbnail: List<Int>,
    val tile: List<List<List<Int>>>,
    val rowEnd: List<Int>,
    val imageEnd: List<Int>,
    val lone: List<Int>?,
    val lastRowEnd: List<Int>?,
    val tileEnd: List<Int>? = null,
    val thumbnailEnd: List<Int>? = null,
    val numbers: List<List<Int>>? = null,
)

/** Literal text around a message; [strip]: its white space is removed at both ends. */
internal class Role(val prefix: String, val suffix: String, val strip: Boolean, val prefixWithImage: String?)

/** Literal text around each part of a message. */
internal class Around(val prefix: String, val suffix: String)

/** What is dropped of an earlier answer: all up to the last [end], if there is one, then the characters of [trim]. */
internal class Reasoning(val end: String?, val trim: String)

/**
 * The chat template as literals. [behindImages] stands between a question's images and its texts, [between] between all of its
 * parts; [singleTurn]: there is no second question.
 */
internal class ChatLayout(
    val start: String,
    val roles: Map<String, Role>,
    val defaultSystem: String?,
    val generationPrefix: String,
    val reasoning: Reasoning?,
    val image: Around?,
    val text: Around?,
    val imagesFirst: Boolean,
    val systemJoins: Boolean,
    val stripParts: Boolean,
    val behindImages: String?,
    val singleTurn: Boolean,
    val between: String?,
)

/** What was exported; [rowWidth]: channels of a token for each layer that enter the decoder beside its embedding. */
internal class Model(
    val name: String,
    val vocabSize: Long,
    val hiddenSize: Long,
    val layers: Int,
    val rowWidth: Int,
    val limits: String?,
) {
    /** Channels of a token as its id is looked up. */
    val embeddingWidth: Long get() = hiddenSize + layers.toLong() * rowWidth
}

/**
 * What a layer keeps of its tokens: keys and values, with heads of the cache's size or of a [headDim] of its own; nothing
 * where it reads those of an earlier layer, its [source]; or where there is a [kernel] what enters a convolution of so many rows,
 * float32 [1, kernel - 1 + length, width], of which the first stand for what was before the first token and are zeros. Or a
 * [state], and of what enters the convolution before it the last rows alone, float32 [1, kernel - 1, width].
 */
internal class LayerCache(
    val width: Int = 0,
    val kernel: Int = 0,
    val headDim: Int? = null,
    val source: Int? = null,
    val state: Matrices? = null,
) {
    val isConvolution: Boolean get() = kernel > 0 && state == null

    /** Whether it keeps keys and values of its own. */
    val isAttention: Boolean get() = kernel == 0 && source == null
    val isPlain: Boolean get() = isAttention && headDim == null
}

/** A matrix for each of [heads], float32 [1, heads, key_width, value_width]: one for all tokens so far, zeros at first. */
internal class Matrices(val heads: Int, val keyWidth: Int, val valueWidth: Int)

/** Of attention a buffer [1, heads, length, head_dim] for keys and one for values; [length] in tokens; [layers]: of each. */
internal class KvCacheSpec(
    val length: Int,
    val dtype: String,
    val heads: Long,
    val headDim: Long,
    val layers: List<LayerCache>,
)

/** `manifest.json` (docs/bundle-format.md), read as strictly as Python does, kept as far as running needs it. */
internal class Manifest(
    val minimumPocketvlm: String,
    val minimumOnnxruntime: String?,
    val model: Model,
    val vision: Vision?,
    val imageLayout: ImageLayout?,
    val stop: List<Int>,
    val imageToken: Int?,
    val tokenizer: String,
    val chat: ChatLayout?,
    val kvCache: KvCacheSpec,
    val positions: MropePositions?,
    /** which tokens see what is behind them: `none`, `image` or `prompt` */
    val spans: String,
    /** most tokens of one prefill step of the engine onnx */
    val prefillChunk: Int,
    /** engine -> part -> graph */
    val engines: Map<String, Map<String, Part>>,
    /** engines that may be chosen, best first; empty: any */
    val preference: List<PreferredEngine>,
    val files: Map<String, FileEntry>,
    /** of its own text: what tells bundles apart */
    val sha256: String,
) {
    val hasSpans: Boolean get() = spans != "none"

    /** Channels of a token as it enters the decoder. */
    val enteringWidth: Long get() = model.embeddingWidth + model.hiddenSize * (vision?.patches?.deep ?: 0)
}

private val FILE_NAME = Regex("[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")

/** Whether a bundle may name a file so: a relative path without empty, dot or dot-dot parts, at most 255 characters. */
internal fun isFileName(name: String): Boolean = name.length <= 255 && FILE_NAME.matches(name)
