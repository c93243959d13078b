package dev.pocketvlm.bundle

private const val MAX_SIDE = 64

/** Images of a conversation that a layout has numbers for. */
private const val MAX_NUMBERS = 256

/** The sections `vision` and `image_layout` of a manifest of this [format]. */
internal class VisionSections(private val format: Int) {
    fun vision(value: Reader): Vision {
        val of = value.members(
            "tile_size", "strategy", "candidates", "alpha", "thumbnail", "thumbnail_of_single_tile", "longest_edge",
            "min_pixels", "max_pixels", "resize_filter", "pad_color", "rescale", "mean", "std", "tile_batch",
            "patches_per_tile", "vision_hidden_size", "downsample_ratio", "tokens_per_tile", "replaces", "packing",
            "patches", "part",
        )
        of.inFormat3("replaces", format)?.name() // for people
        val vision = Vision(
            preprocessing(of),
            tileBatch = of["tile_batch"].int(1, 64),
            patchesPerTile = of["patches_per_tile"].positive(),
            hiddenSize = of["vision_hidden_size"].positive(),
            downsampleRatio = of["downsample_ratio"].positive(),
            tokensPerTile = of["tokens_per_tile"].int(1, 1 shl 16),
            packing = of.inFormat3("packing", format)?.let(::packing),
            patches = of.given("patches")?.let(::patches),
        )
        nativeProblem(vision)?.let(value::refuse)
        if (vision.packing != null) checkPacked(value, vision)
        return vision
    }

    private fun preprocessing(of: Members) = Preprocessing(
        tiling(of),
        resizeFilter = when {
            format < 3 -> of["resize_filter"].choice("bicubic")
            format < 5 -> of["resize_filter"].choice("bicubic", "lanczos")
            else -> of["resize_filter"].choice("bicubic", "lanczos", "bilinear")
        },
        padColor = of["pad_color"].list(3, 3, ::color),
        rescale = of["rescale"].number(),
        mean = of["mean"].list(3, 3) { it.number() },
        std = of["std"].list(3, 3) { it.number() },
    )

    private fun tiling(of: Members) = Tiling(
        tileSize = of["tile_size"].int(1, 4096),
        strategy = strategy(of["strategy"]),
        candidates = of["candidates"].list(1, 256, ::grid),
        alpha = of["alpha"].number(0.0, 1.0),
        thumbnail = of["thumbnail"].choice("first", "last", "none"),
        thumbnailOfSingleTile = of["thumbnail_of_single_tile"].boolean(),
        longestEdge = of.inFormat3("longest_edge", format)?.int(1, 4096),
        minPixels = of.given("min_pixels")?.positive(),
        maxPixels = of.given("max_pixels")?.positive(),
        part = of.given("part")?.int(1, 64),
    )

    /** Of the rules by which pictures are cut, those that the format knows. */
    private fun strategy(value: Reader): String = when {
        format < 3 -> value.choice("relaxed", "llava-next", "internvl")
        format < 5 -> value.choice("relaxed", "llava-next", "internvl", "idefics3", "center-crop")
        else -> value.choice(
            "relaxed", "llava-next", "internvl", "idefics3", "center-crop", "smart-resize", "lfm2", "minicpmv", "gemma4",
            "pad-square",
        )
    }

    private fun patches(value: Reader): PatchPictures {
        if (format < 5) value.refuse("only format 5 has it")
        return readPatches(value)
    }

    /** A grid that the schema takes and an int does not is refused as too large when the bundle is loaded. */
    private fun grid(value: Reader): Grid {
        val (across, down) = value.list(2, 2) { minOf(it.positive(), Int.MAX_VALUE.toLong()).toInt() }
        return Grid(across, down)
    }

    /** The schema takes any whole number; what is no byte is refused when the bundle is loaded. */
    private fun color(value: Reader): Int? {
        if (!value.isWhole) value.refuse("it must be a whole number")
        return (value.value as? Long)?.takeIf { it in 0..255 }?.toInt()
    }

    private fun packing(value: Reader): Packing {
        val of = value.members("kind", "newline", "most_tiles")
        of["kind"].choice("anyres")
        return Packing(of["newline"].fileName(), of.given("most_tiles")?.int(1, 1024))
    }

    private fun checkPacked(value: Reader, vision: Vision) {
        val tiling = vision.preprocessing.tiling
        if (tiling.thumbnail != "first" || !tiling.thumbnailOfSingleTile) {
            value.refuse("packing begins with a thumbnail, which not every image has first")
        }
        if (tiling.strategy != "relaxed" && tiling.strategy != "llava-next") {
            value.refuse("packing takes padding away, and this rule stretches images")
        }
        if (vision.tokensPerSide * vision.tokensPerSide != vision.tokensPerTile) {
            value.refuse("packing needs a square of tokens a tile")
        }
    }

    fun imageLayout(value: Reader): ImageLayout {
        val of = value.members(
            "image_start", "thumbnail", "tile", "row_end", "image_end", "lone", "last_row_end", "tile_end", "thumbnail_end",
            "numbers",
        )
        return ImageLayout(
            imageStart = of["image_start"].tokenIds(),
            thumbnail = of["thumbnail"].tokenIds(),
            tile = of["tile"].list(0, MAX_SIDE) { row -> row.list(0, MAX_SIDE) { it.tokenIds() } },
            rowEnd = of["row_end"].tokenIds(),
            imageEnd = of["image_end"].tokenIds(),
            lone = of.inFormat3("lone", format)?.tokenIds(),
            lastRowEnd = of.inFormat3("last_row_end", format)?.tokenIds(),
            tileEnd = of.inFormat5("tile_end", format)?.tokenIds(),
            thumbnailEnd = of.inFormat5("thumbnail_end", format)?.tokenIds(),
            numbers = of.inFormat5("numbers", format)?.list(1, MAX_NUMBERS) { it.tokenIds() },
        )
    }
}
